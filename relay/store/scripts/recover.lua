-- Begin a recovery: a job that a deliver pump works off in steps.
-- KEYS: sub:S, jobs:S, ready
-- ARGV: subscription, retailer, job id, job JSON, most jobs remembered
-- Returns {'ok'}, {'missing'}, {'disabled'} or {'running', job id}.
local known = redis.call('HMGET', KEYS[1], 'retailer', 'enabled', 'job')
if known[1] ~= ARGV[2] then
  return {'missing'}
end
if known[2] ~= '1' then
  return {'disabled'}
end
if known[3] then
  return {'running', known[3]}
end
local ids = redis.call('HKEYS', KEYS[2])
if #ids >= tonumber(ARGV[5]) then
  table.sort(ids)
  redis.call('HDEL', KEYS[2], ids[1])
end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('HSET', KEYS[1], 'job', ARGV[3])
mark_ready({ARGV[1]}, now_ms())
return {'ok'}
