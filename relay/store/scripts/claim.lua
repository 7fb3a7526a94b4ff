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
local sub, floor = string.sub, math.floor
local widths, fields = {}, {}
for class = 2, CLASSES - 1 do
  widths[class] = width * 2 ^ (class - 1.5)
end
widths[CLASSES - 1] = width * 2 ^ 5.5

-- What is stored of an arm, in the order in which it is used below.
local function fields_of(arm)
  local letter = sub(arm, 1, 1)
  local names = fields[letter]
  if not names then
    names = {'t', 'f' .. letter, 'w' .. letter, 'u', 'kv', 'g', 'b' .. letter, 'a' .. letter, 'e' .. letter}
    fields[letter] = names
  end
  return names
end

-- Read on in a class, behind the arms that were taken: they stand there until all is written. `rows.from`: how many arms
-- stand before the first of these rows; `heads`: when the first arm that nobody took is due. Most classes of most pools
-- give few arms, so the first rows are few, and what is read in vain stays below what is used.
local function read_on(pool, class, from, size)
  local rows = redis.call('ZRANGE', pool.due .. class, from, from + size - 1, 'WITHSCORES')
  rows.at, rows.from, rows.size, rows.last = 1, from, size, #rows < 2 * size
  pool.rows[class], pool.heads[class] = rows, tonumber(rows[2])
end

-- Take the first arm of a class.
local function take(pool, class)
  local rows, due = pool.rows[class], pool.heads[class]
  local at = rows.at
  rows.at, pool.found = at + 2, nil
  if at + 2 < #rows or rows.last then
    pool.heads[class] = tonumber(rows[at + 3])
  else
    read_on(pool, class, rows.from + rows.size, math.min(rows.size * 4, 64))
  end
  return rows[at], due
end

-- The class to take from: urgent arms, then turn about those never read and those overdue, then what may be early.
local function choose(pool, may_be_early)
  local heads, classes = pool.heads, pool.classes
  if heads[0] and heads[0] <= now then
    return 0
  end
  local best, most
  for n = 1, #classes do
    local class = classes[n]
    local at = heads[class]
    if at then
      local late = (now - at) / widths[class]
      if (not most or late > most) and (class < CLASSES - 1 or late >= 0) then
        best, most = class, late
      end
    end
  end
  if heads[1] and heads[1] <= now and (pool.turn or not most or most < 0) then
    return 1
  end
  return most and (most >= 0 or (may_be_early and most >= -early)) and best
end

-- When something of the pool can be claimed next.
local function next_of(pool, budgeted)
  local soonest = tonumber(redis.call('ZRANGE', pool.claimed, 0, 0, 'WITHSCORES')[2])
  for class = 0, CLASSES - 1 do
    local at, off = pool.heads[class], pool.off[class]
    if off then
      at = math.min(at or off[1], off[1])
    end
    if at then
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

-- `rows`: by class, what was read of it; `classes`: those from 2 on that are not empty; `granted`: end of lease and arm in
-- turn; `off`: by class, until when and which arms are put off, in turn; `found`: what `choose` said, nil when it is to
-- be asked.
local function open_pool(credential, retailer, load)
  local id = credential .. '/' .. retailer
  local pool = {id = id, retailer = retailer, due = due_key(id, ''), claimed = P .. 'claimed:' .. id,
    order = P .. 'order:' .. retailer .. ':', rows = {}, heads = {}, classes = {}, granted = {}, off = {}}
  local expired, urgent = redis.call('ZRANGEBYSCORE', pool.claimed, '-inf', now, 'LIMIT', 0, 256), {}
  for n, arm in ipairs(expired) do
    urgent[2 * n - 1], urgent[2 * n] = now, arm
  end
  for_many('ZREM', pool.claimed, expired)
  for_many('ZADD', pool.due .. 0, urgent)
  for class = 0, CLASSES - 1 do
    read_on(pool, class, 0, 4)
    if class > 1 and pool.heads[class] then
      pool.classes[#pool.classes + 1] = class
    end
  end
  local known = redis.call('HMGET', P .. 'pool:' .. id, 'x', 'v', 'turn')
  pool.factor, pool.time, pool.turn = known[1] or '', tonumber(known[2] or '0'), known[3] == '1'
  pool.orders = tonumber(redis.call('HGET', load, retailer) or '0')
  return pool
end

-- Write what became of the arms that were taken: they are the first of their classes. What frees memory comes first, since
-- a full Redis lets a script go on that has written something; and between the first and the last nothing can fail.
local function write(pool)
  for class, rows in pairs(pool.rows) do
    local taken = rows.from + (rows.at - 1) / 2
    if taken > 0 then
      redis.call('ZREMRANGEBYRANK', pool.due .. class, 0, taken - 1)
    end
  end
  for_many('ZADD', pool.claimed, pool.granted)
  for class, off in pairs(pool.off) do
    for_many('ZADD', pool.due .. class, off)
  end
end

-- A pool as it is returned, once everything is written.
local function describe(pool)
  local count = redis.call('ZCARD', pool.claimed)
  for class, rows in pairs(pool.rows) do
    if rows[1] or rows.from > 0 then
      count = count + redis.call('ZCARD', pool.due .. class)
    end
  end
  return {pool.id, count, pool.orders, pool.all, pool.retailers, pool.rate, pool.factor}
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
    for _, pool in ipairs(opened) do
      pool.found = nil
    end
    while granted < room and moved < 2000 do
      local pool
      for n = 1, #opened do
        local one = opened[n]
        if not pool or one.time < pool.time then
          if one.found == nil then
            one.found = choose(one, round == 2) or false
          end
          if one.found then
            pool = one
          end
        end
      end
      if not pool then
        break
      end
      local class = pool.found
      local arm, due = take(pool, class)
      local f = redis.call('HMGET', pool.order .. sub(arm, 3), unpack(fields_of(arm)))
      if not f[1] then
        moved = moved + 1
      elseif mint > now and not f[5] and not (f[4]
          and redis.call('EXISTS', P .. 'token:' .. credential .. ':' .. redis.sha1hex(f[4])) == 1) then
        -- No token is to be had before the gate opens: the arm waits, and costs no request.
        local off = pool.off[class] or {}
        pool.off[class] = off
        off[#off + 1], off[#off + 2] = mint, arm
        moved = moved + 1
      else
        if not pool.number then
          pool.number, pool.all, pool.retailers, pool.rate = #pools, all, retailers, rate
          pools[#pools + 1] = pool
        end
        local size = #pool.granted
        pool.granted[size + 1], pool.granted[size + 2] = until_ms, arm
        arms[#arms + 1] = {arm, pool.number, until_ms, floor(tat + 0.5), due, f[2] or '', tonumber(f[3] or '0'),
          f[4] or '', f[5] or '', f[1], f[6] or '', f[7] or '', tonumber(f[8] or '0'), f[9] or ''}
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
    write(pool)
  end
  for _, pool in ipairs(opened) do
    if pool.number then
      redis.call('HSET', P .. 'pool:' .. pool.id, 'v', string.format('%.3f', pool.time), 'turn', pool.turn and '1' or '0')
    end
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
for number, pool in ipairs(pools) do
  pools[number] = describe(pool)
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return cmsgpack.pack({now, tonumber(first[2] or '-1'), exceeded, pools, arms})
