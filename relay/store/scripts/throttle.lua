-- Upstream refuses a credential's requests as too many, or asks to come back later: be slower, for all of them.
-- KEYS: budget:C
-- ARGV: when to come back by upstream's word (ms from now; '' when it said nothing), a number from 0 to 1
-- Returns until when nothing is asked (ms; 0 when polling goes on at a lower rate).
local now = now_ms()
local retry, dice = tonumber(ARGV[1]), tonumber(ARGV[2])
local f = redis.call('HMGET', KEYS[1], 'cut_at', 'gate', 'pauses', 'hit', 'second', 'count', 'last', 'rate')
local cut_at, gate, hit = tonumber(f[1] or '0'), tonumber(f[2] or '0'), tonumber(f[4] or '0')
local pauses = now - hit < 120000 and tonumber(f[3] or '0') or 0
redis.call('HSET', KEYS[1], 'hit', now)
-- The answers of one burst are one refusal: one cut in five seconds.
if now - cut_at >= 5000 then
  local rate = allowed_rate(KEYS[1], now)
  local full = tonumber(f[8] or '0') or 0
  if full == 0 then
    if rate == 0 then
      local second = math.floor(now / 1000)
      local seen = tonumber(f[5] or '0') == second and math.max(tonumber(f[6] or '0'), tonumber(f[7] or '0'))
      rate = math.max(1, seen or tonumber(f[6] or '0'))
    end
    redis.call('HSET', KEYS[1], 'own', rate, 'cut', 0.7, 'cut_at', now)
  else
    redis.call('HSET', KEYS[1], 'cut', string.format('%.4f', math.max(0.02, 0.7 * rate / full)), 'cut_at', now)
  end
elseif not retry and now - cut_at >= 500 and gate <= now then
  -- The cut was not enough: pause, twice as long each time.
  retry = math.min(60000, 1000 * 2 ^ pauses)
  pauses = pauses + 1
end
redis.call('HSET', KEYS[1], 'pauses', pauses)
if retry then
  gate = math.max(gate, now + retry * (1 + 0.1 * dice))
  redis.call('HSET', KEYS[1], 'gate', string.format('%.0f', gate))
end
return gate > now and string.format('%.0f', gate) or '0'
