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
local given = cmsgpack.unpack(ARGV[1])
local pools, arms = given[1], given[2]
local soonest = {}
for number, pool in ipairs(pools) do
  pool.id = pool[1] .. '/' .. pool[2]
  pool.claimed = P .. 'claimed:' .. pool.id
  pool.again = redis.call('EXISTS', P .. 'again:' .. pool.id) == 1
  if pool[3] ~= 0 then
    redis.call('HSETNX', P .. 'pool:' .. pool.id, 'x', pool[4])
    redis.call('HINCRBYFLOAT', P .. 'pool:' .. pool.id, 'x', pool[3])
  end
end
for i = 1, #arms, 10 do
  local arm, number, lease = arms[i], arms[i + 1] + 1, arms[i + 2]
  local pool = pools[number]
  local letter, order = string.match(arm, '^(%a)/(.*)$')
  local key = P .. 'order:' .. pool[2] .. ':' .. order
  local known = redis.call('HMGET', key, 'r', 'w' .. letter, 'f' .. letter, 'v')
  if known[1] then
    local read_at, fingerprint, trouble, validator = arms[i + 5], arms[i + 6], arms[i + 7], arms[i + 8]
    local holds, moved = arms[i + 9], false
    if holds ~= '' and holds ~= 'f' .. (known[3] or '') and holds ~= 'v' .. known[4] then
      read_at, validator, moved = '', '', true
    end
    if read_at ~= '' and tonumber(read_at) > tonumber(known[2] or '0') then
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
    local score = redis.call('ZSCORE', pool.claimed, arm)
    if score and tonumber(score) == tonumber(lease) then
      local delay, class = arms[i + 3], arms[i + 4]
      redis.call('ZREM', pool.claimed, arm)
      if pool.again and redis.call('SREM', P .. 'again:' .. pool.id, arm) == 1 or moved then
        delay, class = 0, 0
      end
      if delay ~= '' then
        local at = now + tonumber(delay)
        put_arm(pool[1], pool[2], arm, class, at)
        soonest[number] = math.min(soonest[number] or at, class > 0 and now + 0.25 * delay or at)
      end
    else
      lost = lost + 1
    end
  else
    redis.call('ZREM', pool.claimed, arm)
  end
end
for number, at in pairs(soonest) do
  stand(pools[number][1], pools[number][2], at)
end
return lost
