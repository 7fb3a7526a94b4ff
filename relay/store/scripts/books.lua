-- One subscription's books at one moment, as pumps go on writing.
-- KEYS: sub:S, ahead:S, lanes:S
-- ARGV: subscription
-- Returns {hash, marks ahead, {lane, length, first entry}...}; lanes of what is sent again on request are left out: it was
-- counted before.
local out = {redis.call('HGETALL', KEYS[1]), redis.call('SMEMBERS', KEYS[2])}
for _, name in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  if string.sub(name, 1, 1) ~= '\31' then
    local lane = P .. 'lane:' .. ARGV[1] .. ':' .. name
    out[#out + 1] = {name, redis.call('LLEN', lane), redis.call('LINDEX', lane, 0) or ''}
  end
end
return out
