-- Make arms of an order due now, before all else. One that is being polled is due again when it is put back.
-- KEYS: order:R:O
-- ARGV: retailer, order, letters of the resources
-- Returns 1, or 0 when the order is not tracked (any more).
local known = redis.call('HMGET', KEYS[1], 'c', 't')
if not known[1] or known[2] == 'ended' then
  return 0
end
local now = now_ms()
for letter in string.gmatch(ARGV[3], '%a') do
  hasten_arm(known[1], ARGV[1], letter .. '/' .. ARGV[2], now)
end
stand(known[1], ARGV[1], now)
ring('poll', 16)
return 1
