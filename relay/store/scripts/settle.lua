-- Put claimed arms back in one call: those that found nothing new, and those that upstream would not answer.
-- KEYS: creds
-- ARGV: one MessagePack array (a client packs one long argument much faster than thousands): first the pools,
--   {credential, retailer, what to add to its factor, the factor it begins with} each, then one flat array with ten
--   entries an arm: letter/order, number of its pool, end of lease, delay (ms) until it is due again ('' when it is not
--   to be polled any more), class, read_at ('' when it was not read), fingerprint ('' when the stored one stands),
--   trouble ('' to leave, '-' to clear, else JSON), validator ('' to leave, '-' to clear), what has to hold still ('' for
--   nothing): f and the stored fingerprint, or v and the order's version. When it does not, because somebody committed
--   meanwhile or Redis lost its last moments, the reading was compared with what is not stored: it is not taken in, and
--   the arm is due again at once.
-- Returns how many leases had been lost (their arms are due by somebody else's word).
local now = now_ms()
local lost = 0
local sub = string.sub
local given = cmsgpack.unpack(ARGV[1])
local pools, arms = given[1], given[2]
for _, pool in ipairs(pools) do
  pool.id = pool[1] .. '/' .. pool[2]
  pool.order, pool.claimed, pool.again = P .. 'order:' .. pool[2] .. ':', P .. 'claimed:' .. pool.id, P .. 'again:' .. pool.id
  pool.hastened = redis.call('EXISTS', pool.again) == 1
  pool.members, pool.leases, pool.ended, pool.due = {}, {}, {}, {}
  if pool[3] ~= 0 then
    redis.call('HSETNX', P .. 'pool:' .. pool.id, 'x', pool[4])
    redis.call('HINCRBYFLOAT', P .. 'pool:' .. pool.id, 'x', pool[3])
  end
end

-- The leases as they stand. One that is settled here is none any more for a second settlement of the same arm.
for i = 1, #arms, 10 do
  local members = pools[arms[i + 1] + 1].members
  members[#members + 1] = arms[i]
end
for _, pool in ipairs(pools) do
  local members, leases = pool.members, pool.leases
  for first = 0, #members - 1, 400 do
    local scores = redis.call('ZMSCORE', pool.claimed, unpack(members, first + 1, math.min(first + 400, #members)))
    for n = 1, #scores do
      leases[members[first + n]] = scores[n]
    end
  end
end

-- `ended`: arms that are not claimed any more; `due`: by class, when and which arms are due, in turn. Both are written at
-- the end, one after the other, so that no error can leave an arm in neither; and after the readings, so that a full Redis
-- refuses all of them or, where there are none, takes the arms back.
local function put_back(pool, arm, delay, class)
  local at = now + delay
  local soon = class > 0 and math.min(at, now + 0.25 * delay) or at
  if not pool.soonest or soon < pool.soonest then
    pool.soonest = soon
  end
  local due = pool.due[class]
  if not due then
    due = {}
    pool.due[class] = due
  end
  local size = #due
  due[size + 1], due[size + 2] = at, arm
end

for i = 1, #arms, 10 do
  local arm, lease = arms[i], arms[i + 2]
  local pool = pools[arms[i + 1] + 1]
  local letter, key = sub(arm, 1, 1), pool.order .. sub(arm, 3)
  local ended = pool.ended
  local known = redis.call('HMGET', key, 'v', 'w' .. letter, 'f' .. letter)
  if known[1] then
    local read_at, fingerprint, trouble, validator = arms[i + 5], arms[i + 6], arms[i + 7], arms[i + 8]
    local holds, moved = arms[i + 9], false
    if holds ~= '' and holds ~= 'f' .. (known[3] or '') and holds ~= 'v' .. known[1] then
      read_at, validator, moved = '', '', true
    end
    if read_at ~= '' and read_at > tonumber(known[2] or '0') then
      -- As digits: some servers write a round number of a script's as 1.8e+12, and others read it as an integer.
      if fingerprint ~= '' then
        redis.call('HSET', key, 'w' .. letter, string.format('%.0f', read_at), 'f' .. letter, fingerprint)
      else
        redis.call('HSET', key, 'w' .. letter, string.format('%.0f', read_at))
      end
    end
    if trouble == '-' then
      redis.call('HDEL', key, 'b' .. letter)
    elseif trouble ~= '' then
      redis.call('HSET', key, 'b' .. letter, trouble)
    end
    if validator == '-' then
      redis.call('HDEL', key, 'e' .. letter)
    elseif validator ~= '' then
      redis.call('HSET', key, 'e' .. letter, validator)
    end
    local score = pool.leases[arm]
    -- Servers write a score as 1800000000000 or as 1.8e+12.
    if score and (score == lease or tonumber(score) == tonumber(lease)) then
      local delay, class = arms[i + 3], arms[i + 4]
      pool.leases[arm] = false
      ended[#ended + 1] = arm
      if pool.hastened and redis.call('SREM', pool.again, arm) == 1 or moved then
        delay, class = 0, 0
      end
      if delay ~= '' then
        put_back(pool, arm, delay, class)
      end
    else
      lost = lost + 1
    end
  else
    ended[#ended + 1] = arm
  end
end

for _, pool in ipairs(pools) do
  for_many('ZREM', pool.claimed, pool.ended)
  for class, due in pairs(pool.due) do
    for_many('ZADD', due_key(pool.id, class), due)
  end
  if pool.soonest then
    stand(pool[1], pool[2], pool.soonest)
  end
end
return lost
