-- Put a sealed record in the place of another, if it is still that one.
-- KEYS: the hash or string
-- ARGV: field ('' for a string), record as read, record to write
-- Returns 1, or 0 when somebody else wrote meanwhile.
if ARGV[1] == '' then
  if redis.call('GET', KEYS[1]) ~= ARGV[2] then
    return 0
  end
  redis.call('SET', KEYS[1], ARGV[3], 'KEEPTTL')
else
  if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
    return 0
  end
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return 1
