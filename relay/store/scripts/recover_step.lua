-- One step of a recovery: put events into the lanes of what is sent on request, and move the job on. The step counts
-- only for the job as it was read: a step that comes twice does nothing.
-- KEYS: sub:S, jobs:S, lanes:S
-- ARGV: subscription, fence, job id, job JSON as read, job JSON after, 1 when the job has ended,
--   then {lane, entry} for each event
-- Returns {now, 1}, or {now, 0} when refused.
local now = now_ms()
local held = redis.call('HMGET', KEYS[1], 'fence', 'owner', 'job')
if held[1] ~= ARGV[2] or (held[2] or '') == '' or held[3] ~= ARGV[3] then
  return {now, 0}
end
if redis.call('HGET', KEYS[2], ARGV[3]) ~= ARGV[4] then
  return {now, 0}
end
for i = 7, #ARGV, 2 do
  redis.call('RPUSH', P .. 'lane:' .. ARGV[1] .. ':' .. ARGV[i], ARGV[i + 1])
  redis.call('ZADD', KEYS[3], 'NX', now, ARGV[i])
  redis.call('HINCRBY', KEYS[1], 'replaying', 1)
end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[5])
if ARGV[6] == '1' then
  redis.call('HDEL', KEYS[1], 'job')
end
return {now, 1}
