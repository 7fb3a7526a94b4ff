-- Make all arms of an order due now. A lease on one of them is lost with that, and its reading still counts.
-- KEYS: order:R:O
-- ARGV: retailer, order, then resource letters (all three when none is named)
-- Returns 1, or 0 when the order is not tracked (any more).
local known = redis.call('HMGET', KEYS[1], 'c', 't')
if not known[1] or known[2] == 'ended' then
  return 0
end
local now = now_ms()
local letters = {'h', 'i', 'm'}
if #ARGV > 2 then
  letters = {unpack(ARGV, 3)}
end
for _, letter in ipairs(letters) do
  redis.call('ZADD', P .. 'due:' .. known[1], now, letter .. '/' .. ARGV[1] .. '/' .. ARGV[2])
end
redis.call('ZADD', P .. 'creds', 'LT', now, known[1])
ring('poll', 16)
return 1
