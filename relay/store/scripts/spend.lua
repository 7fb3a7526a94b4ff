-- Spend one request of a credential's budget outside of polling: a retailer's decision on its way to upstream.
-- KEYS: budget:C
-- ARGV: how far ahead (ms) a send time may lie, share of the budget that is spent at most
-- Returns {now, when the request may start, whether its second holds more than the budget}, or {now, -1, 0} when the
-- budget has nothing within that time.
local now = now_ms()
local f = redis.call('HMGET', KEYS[1], 'tat', 'gate', 'second', 'count', 'ss', 'sc', 'rate')
local rate = allowed_rate(KEYS[1], now) * tonumber(ARGV[2])
local at = math.max(tonumber(f[1] or '0'), tonumber(f[2] or '0'), now)
if at > now + tonumber(ARGV[1]) then
  return {now, -1, 0}
end
if rate > 0 then
  redis.call('HSET', KEYS[1], 'tat', string.format('%.3f', at + 1000 / rate))
end
spent(KEYS[1], f[3], f[4], now, 1)
local counts = {tonumber(f[5] or '0'), tonumber(f[6] or '0')}
local over = exceeds(counts, at, tonumber(f[7] or '0') or 0)
redis.call('HSET', KEYS[1], 'ss', string.format('%.0f', counts[1]), 'sc', counts[2])
return {now, string.format('%.0f', at), over and 1 or 0}
