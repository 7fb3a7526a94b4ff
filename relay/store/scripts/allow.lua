-- Whether a request of a key may go now: by the key's rate and by its retailer's, counted against both or neither.
-- GCRA: a rate's theoretical arrival time moves on by one interval a request, and may run ahead by the burst.
-- KEYS: rate:<key>, rate:<retailer>, retailer:R
-- ARGV: requests a second of a key, of a retailer that has no rate of its own, burst (s); 0: no limit
-- Returns {wait (ms, 0: go), requests that may follow at once, ms until the whole burst may, burst (requests)}, of the
-- tighter rate; {0} when there is no limit.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000
local rates = {tonumber(ARGV[1]), tonumber(redis.call('HGET', KEYS[3], 'api_rate') or ARGV[2])}
local wait, tightest, next_tat = 0, nil, {}
for index, rate in ipairs(rates) do
  if rate > 0 then
    local every = 1000 / rate
    local burst = math.max(every, ARGV[3] * 1000)
    local tat = math.max(tonumber(redis.call('GET', KEYS[index]) or '0'), now) + every
    wait = math.max(wait, tat - burst - now)
    local left = math.max(0, math.floor((burst - (tat - now)) / every + 0.001))
    next_tat[index] = tat
    if not tightest or left < tightest[1] then
      tightest = {left, math.ceil(tat - now), math.floor(burst / every + 0.001)}
    end
  end
end
if not tightest then
  return {0}
end
if wait <= 0 then
  for index, tat in pairs(next_tat) do
    redis.call('SET', KEYS[index], string.format('%.3f', tat), 'PX', math.ceil(tat - now) + 1000)
  end
end
return {math.ceil(wait), unpack(tightest)}
