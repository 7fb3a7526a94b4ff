-- Take several names for a while, all or none.
-- KEYS: pause:<what>...
-- ARGV: for how long (ms)
-- Returns 0, or how long the longest of those that are taken still is (ms).
local left = 0
for _, key in ipairs(KEYS) do
  left = math.max(left, redis.call('PTTL', key))
end
if left > 0 then
  return left
end
for _, key in ipairs(KEYS) do
  redis.call('SET', key, '1', 'PX', ARGV[1])
end
return 0
