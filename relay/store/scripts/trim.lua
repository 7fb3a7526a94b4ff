-- Drop the oldest events of a log, with their index entries, up to a moment.
-- KEYS: log:R, ids:R
-- ARGV: retailer, smallest stream id to keep, how many at most
-- Returns how many were dropped.
local old = redis.call('XRANGE', KEYS[1], '-', '(' .. ARGV[2], 'COUNT', tonumber(ARGV[3]))
for _, entry in ipairs(old) do
  local fields = entry[2]
  local event, order
  for i = 1, #fields, 2 do
    if fields[i] == 'i' then event = fields[i + 1] end
    if fields[i] == 'o' then order = fields[i + 1] end
  end
  redis.call('XDEL', KEYS[1], entry[1])
  redis.call('HDEL', KEYS[2], event)
  local trail = P .. 'trail:' .. ARGV[1] .. ':' .. order
  if redis.call('LINDEX', trail, 0) == entry[1] then
    redis.call('LPOP', trail)
  end
end
return #old
