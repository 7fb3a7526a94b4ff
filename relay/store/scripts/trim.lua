-- Drop the oldest events of a log, with their index entries, up to a moment.
-- KEYS: log:R, ids:R, gone:R
-- ARGV: retailer, smallest stream id to keep, the same as text that sorts, how many at most
-- Returns how many were dropped.
local dropped = 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '(' .. ARGV[2], 'COUNT', tonumber(ARGV[4]))) do
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
  dropped = dropped + 1
end
for _, member in ipairs(redis.call('ZRANGEBYLEX', KEYS[3], '-', '(' .. ARGV[3], 'LIMIT', 0, tonumber(ARGV[4]))) do
  redis.call('ZREM', KEYS[3], member)
  redis.call('HDEL', KEYS[2], string.match(member, '^[^/]*/([^/]*)/'))
  dropped = dropped + 1
end
return dropped
