-- Let what was learnt fade, at most once in a while: old days count less than new ones.
-- KEYS: pause:fade, hashes of sums...
-- ARGV: for how long not again (ms), share that stays
-- Returns 1, or 0 when it was done a while ago.
if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) then
  return 0
end
local stays = tonumber(ARGV[2])
for i = 2, #KEYS do
  local found = redis.call('HGETALL', KEYS[i])
  for j = 1, #found, 2 do
    redis.call('HSET', KEYS[i], found[j], string.format('%.6g', tonumber(found[j + 1]) * stays))
  end
end
return 1
