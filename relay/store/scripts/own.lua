-- Lease subscriptions with work to a deliver pump.
-- KEYS: ready
-- ARGV: how many at most, owner, lease (ms)
-- Returns {now, next, {id, fence, hash, ahead, lanes, taken, flying}...}: `next` is when something can be owned again (''
-- for never); `flying` is how many posts the owner before had in flight when it last wrote, and `taken` is '1' when it
-- never gave the subscription back.
local now = now_ms()
local out = {now, ''}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))) do
  local key = P .. 'sub:' .. id
  if redis.call('HGET', key, 'enabled') ~= '1' then
    redis.call('ZREM', KEYS[1], id)
    redis.call('HDEL', key, 'owner')
  else
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[3])), id)
    local before = redis.call('HMGET', key, 'owner', 'flying')
    local taken = before[1] and before[1] ~= '' and before[1] ~= ARGV[2]
    redis.call('HSET', key, 'owner', ARGV[2])
    redis.call('HDEL', key, 'flying')
    -- It only grows, and no two are the same, also when Redis lost its last moments and the leases given in them.
    local fence = string.format('%.0f', math.max(tonumber(redis.call('HGET', key, 'fence') or '0') + 1, now))
    redis.call('HSET', key, 'fence', fence)
    out[#out + 1] = {id, tonumber(fence), redis.call('HGETALL', key), redis.call('SMEMBERS', P .. 'ahead:' .. id),
      redis.call('ZRANGE', P .. 'lanes:' .. id, 0, -1, 'WITHSCORES'),
      taken and '1' or '', before[2] or '0'}
  end
end
local head = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if head[2] then
  out[2] = head[2]
end
return out
