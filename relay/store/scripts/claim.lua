-- Lease due arms to a poll pump, spending each credential's budget, the latest relative to its interval first.
-- KEYS: creds
-- ARGV: how many at most, lease (ms), horizon (ms): how far ahead send times may be granted, width (ms) of the narrowest
--   class, how early an arm may be taken where budget is left (share of its interval), share of a budget that retailers
--   have in equal parts, share of the budget that is spent at most
-- Returns one MessagePack array (decoded in a tenth of the time of thousands of strings): {now, next, exceeded, {pool...},
--   {arm...}}. `next` is when something can be claimed again (-1: never); `exceeded`: seconds for which more was granted
--   than a budget; a pool is {id, arms, orders, all orders, retailers, rate, factor ('' when nothing was learnt)};
--   an arm {letter/order, number of its pool, end of lease, send time, due, fingerprint, read_at, user, token revision,
--     tracking, status, trouble, changed_at, validator}; what is not known is '' or 0.
-- The end of its lease is an arm's fencing token.
local want, lease, horizon = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local width, early, guaranteed, spend = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local now = now_ms()
local until_ms = string.format('%.0f', now + lease)
local exceeded, pools, arms = 0, {}, {}
local widths = {}
for class = 2, CLASSES - 1 do
  widths[class] = width * 2 ^ (class - 1.5)
end
widths[CLASSES - 1] = width * 2 ^ 5.5

-- The first arm of a class that nobody took yet: its member and due time.
local function head(pool, class)
  local rows = pool.rows[class]
  if not rows or rows.at > #rows then
    if rows and rows.last then
      return nil
    end
    local size = rows and math.min(rows.size * 4, 256) or 1
    local found = redis.call('ZRANGE', due_key(pool.id, class), 0, size - 1, 'WITHSCORES')
    found.at, found.size, found.last = 1, size, #found < 2 * size
    pool.rows[class] = found
    rows = found
  end
  return rows[rows.at], tonumber(rows[rows.at + 1])
end

-- The class to take from: urgent arms, then turn about those never read and those overdue, then what may be early.
local function choose(pool, may_be_early)
  local arm, at = head(pool, 0)
  if arm and at <= now then
    return 0
  end
  local best, most
  for class = 2, CLASSES - 1 do
    arm, at = head(pool, class)
    if arm then
      local late = (now - at) / widths[class]
      if (not most or late > most) and (class < CLASSES - 1 or late >= 0) then
        best, most = class, late
      end
    end
  end
  arm, at = head(pool, 1)
  if arm and at <= now and (pool.turn or not most or most < 0) then
    return 1
  end
  if most and (most >= 0 or (may_be_early and most >= -early)) then
    return best
  end
end

-- When something of the pool can be claimed next.
local function next_of(pool, budgeted)
  local soonest = redis.call('ZRANGE', P .. 'claimed:' .. pool.id, 0, 0, 'WITHSCORES')[2]
  soonest = soonest and tonumber(soonest)
  for class = 0, CLASSES - 1 do
    local arm, at = head(pool, class)
    if arm then
      if budgeted and class > 1 and class < CLASSES - 1 then
        at = at - early * widths[class]
      end
      if not soonest or at < soonest then
        soonest = at
      end
    end
  end
  return soonest
end

local function open_pool(credential, retailer, load)
  local pool = {id = credential .. '/' .. retailer, retailer = retailer, rows = {}, arms = 0}
  local claimed = P .. 'claimed:' .. pool.id
  for _, arm in ipairs(redis.call('ZRANGEBYSCORE', claimed, '-inf', now, 'LIMIT', 0, 256)) do
    redis.call('ZREM', claimed, arm)
    put_arm(credential, retailer, arm, 0, now)
  end
  local known = redis.call('HMGET', P .. 'pool:' .. pool.id, 'x', 'v', 'turn')
  pool.factor, pool.time, pool.turn = known[1] or '', tonumber(known[2] or '0'), known[3] == '1'
  pool.orders = tonumber(redis.call('HGET', load, retailer) or '0')
  return pool
end

local function describe(pool, all, retailers, rate)
  local arms = redis.call('ZCARD', P .. 'claimed:' .. pool.id)
  for class = 0, CLASSES - 1 do
    arms = arms + redis.call('ZCARD', due_key(pool.id, class))
  end
  pool.number = #pools
  pools[#pools + 1] = {pool.id, arms, pool.orders, all, retailers, rate, pool.factor}
end

for _, credential in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 64)) do
  local budget, load = P .. 'budget:' .. credential, P .. 'load:' .. credential
  local known = redis.call('HMGET', budget, 'rate', 'tat', 'gate', 'mint', 'time', 'second', 'count', 'ss', 'sc')
  local rate = allowed_rate(budget, now) * spend
  local gate, mint = tonumber(known[3] or '0'), tonumber(known[4] or '0')
  local tat = math.max(tonumber(known[2] or '0'), now)
  local room = want
  if rate > 0 then
    room = tat > now + horizon and 0 or math.min(want, 1 + math.floor((now + horizon - tat) * rate / 1000))
  end
  if gate > now then
    room = 0
  end
  local opened, granted, moved = {}, 0, 0
  local full, counts = tonumber(known[1] or '0') or 0, {tonumber(known[8] or '0'), tonumber(known[9] or '0')}
  local virtual = tonumber(known[5] or '0')
  local all, retailers = tonumber(redis.call('HGET', load, '*') or '0'), math.max(0, redis.call('HLEN', load) - 1)
  if room > 0 then
    for _, retailer in ipairs(redis.call('ZRANGEBYSCORE', P .. 'pools:' .. credential, '-inf', now, 'LIMIT', 0, 64)) do
      local pool = open_pool(credential, retailer, load)
      -- Who was idle has saved up nothing.
      pool.time = math.max(pool.time, virtual)
      pool.weight = guaranteed / math.max(retailers, 1) + (1 - guaranteed) * math.min(1, pool.orders / math.max(all, 1))
      opened[#opened + 1] = pool
    end
  end
  -- Retailers take turns by their shares; only when nobody has anything due may somebody be early.
  for round = 1, rate > 0 and 2 or 1 do
    while granted < room and moved < 2000 do
      local pool, class
      for _, one in ipairs(opened) do
        if not pool or one.time < pool.time then
          local found = choose(one, round == 2)
          if found then
            pool, class = one, found
          end
        end
      end
      if not pool then
        break
      end
      local rows = pool.rows[class]
      local arm, due = rows[rows.at], rows[rows.at + 1]
      rows.at = rows.at + 2
      local letter, order = string.match(arm, '^(%a)/(.*)$')
      local f = redis.call('HMGET', P .. 'order:' .. pool.retailer .. ':' .. order, 'r', 'f' .. letter, 'w' .. letter,
        'u', 'kv', 't', 'g', 'b' .. letter, 'a' .. letter, 'e' .. letter)
      redis.call('ZREM', due_key(pool.id, class), arm)
      if not f[1] then
        moved = moved + 1
      elseif mint > now and not f[5] and not (f[4]
          and redis.call('EXISTS', P .. 'token:' .. credential .. ':' .. redis.sha1hex(f[4])) == 1) then
        -- No token is to be had before the gate opens: the arm waits, and costs no request.
        put_arm(credential, pool.retailer, arm, class, mint)
        moved = moved + 1
      else
        redis.call('ZADD', P .. 'claimed:' .. pool.id, until_ms, arm)
        if not pool.number then
          describe(pool, all, retailers, rate)
        end
        arms[#arms + 1] = {arm, pool.number, until_ms, math.floor(tat + 0.5), tonumber(due), f[2] or '',
          tonumber(f[3] or '0'), f[4] or '', f[5] or '', f[6], f[7] or '', f[8] or '', tonumber(f[9] or '0'), f[10] or ''}
        granted = granted + 1
        if exceeds(counts, tat, full) then
          exceeded = exceeded + 1
        end
        virtual = math.max(virtual, pool.time)
        pool.time = pool.time + 1 / pool.weight
        pool.turn = class ~= 1
        if rate > 0 then
          tat = tat + 1000 / rate
        end
      end
    end
  end
  for _, pool in ipairs(opened) do
    if pool.number then
      redis.call('HSET', P .. 'pool:' .. pool.id, 'v', string.format('%.3f', pool.time), 'turn', pool.turn and '1' or '0')
    end
    pool.rows = {}
    local at = next_of(pool, rate > 0)
    if at then
      redis.call('ZADD', P .. 'pools:' .. credential, string.format('%.0f', at), pool.retailer)
    else
      redis.call('ZREM', P .. 'pools:' .. credential, pool.retailer)
    end
  end
  if granted > 0 then
    spent(budget, known[6], known[7], now, granted)
    redis.call('HSET', budget, 'tat', string.format('%.3f', tat), 'time', string.format('%.3f', virtual),
      'ss', string.format('%.0f', counts[1]), 'sc', counts[2])
  end
  local first = redis.call('ZRANGE', P .. 'pools:' .. credential, 0, 0, 'WITHSCORES')[2]
  if first then
    local at = math.max(tonumber(first), gate)
    if rate > 0 then
      at = math.max(at, math.ceil(tat - horizon))
    end
    redis.call('ZADD', KEYS[1], string.format('%.0f', at), credential)
  else
    redis.call('ZREM', KEYS[1], credential)
  end
  want = want - granted
  if want <= 0 then
    break
  end
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return cmsgpack.pack({now, tonumber(first[2] or '-1'), exceeded, pools, arms})
