-- What waits for one subscription, in numbers.
-- KEYS: sub:S, ahead:S, lanes:S
-- ARGV: subscription, how many unread events and how many lanes are looked at
-- Returns {}, or {enabled, circuit, blocked, {unread, since}, {due, since}, {parked, since}, lanes, dead, imbalance}:
--   `blocked` when nothing may be sent now; unread events were not put into lanes, `due` ones wait in lanes that are due,
--   `parked` ones in lanes that are not; `since` is the time of the oldest (ms; 0 for none). Lanes of what is sent again
--   on request are left out: it was counted before.
local f = redis.call('HMGET', KEYS[1], 'retailer', 'pos', 'enabled', 'health', 'hold', 'tat', 'matched', 'delivered',
  'dead', 'skipped')
if not f[2] then
  return {}
end
local now = now_ms()
local function take(into, count, ms)
  into[1] = into[1] + count
  if count > 0 and (into[2] == 0 or ms < into[2]) then
    into[2] = ms
  end
end

local unread, due, parked = {0, 0}, {0, 0}, {0, 0}
local ahead = redis.call('SCARD', KEYS[2])
for _, entry in ipairs(redis.call('XRANGE', P .. 'log:' .. f[1], '(' .. f[2], '+', 'COUNT', tonumber(ARGV[2]))) do
  if ahead == 0 or redis.call('SISMEMBER', KEYS[2], entry[1]) == 0 then
    take(unread, 1, tonumber(ms_of(entry[1])))
  end
end
local lanes, all = 0, redis.call('ZCARD', KEYS[3])
local rows = redis.call('ZRANGE', KEYS[3], 0, tonumber(ARGV[3]) - 1, 'WITHSCORES')
for i = 1, #rows, 2 do
  if string.sub(rows[i], 1, 1) ~= '\31' then
    local lane = P .. 'lane:' .. ARGV[1] .. ':' .. rows[i]
    local head = redis.call('LINDEX', lane, 0)
    lanes = lanes + 1
    if head then
      take(tonumber(rows[i + 1]) > now and parked or due, redis.call('LLEN', lane), tonumber(ms_of(head)))
    end
  end
end
local function count(index)
  return tonumber(f[index] or '0')
end
local left = count(7) + ahead - count(8) - count(9) - count(10) - due[1] - parked[1]
if all > #rows / 2 then
  -- Too many lanes to look at each: what the books say is taken for what the other lanes hold.
  lanes, parked[1], left = lanes + all - #rows / 2, parked[1] + math.max(0, left), 0
end
local circuit = f[4] and cjson.decode(f[4]).circuit or 'closed'
local blocked = f[3] ~= '1' or circuit ~= 'closed' or count(5) > now or count(6) - 5 > now
return {f[3] == '1' and 1 or 0, circuit, blocked and 1 or 0, unread, due, parked, lanes, count(9), math.abs(left)}
