-- Put claimed arms back in one call: those that found nothing new, and those that upstream would not answer.
-- KEYS: creds
-- ARGV: one MessagePack array (a client packs one long argument much faster than thousands), with seven entries an
--   arm: member, credential, end of lease, delay (ms) until it is due again, read_at ('' when it was not read),
--   fingerprint ('' when the stored one stands), trouble ('' to leave, '-' to clear, else JSON)
-- Returns how many leases had been lost (their arms are due by somebody else's word).
local now = now_ms()
local lost = 0
local credentials = {}
local given = cmsgpack.unpack(ARGV[1])
for i = 1, #given, 7 do
  local arm, credential, lease = given[i], given[i + 1], given[i + 2]
  local due = P .. 'due:' .. credential
  local letter, retailer, order = split_arm(arm)
  local key = P .. 'order:' .. retailer .. ':' .. order
  if redis.call('HEXISTS', key, 'r') == 1 then
    local read_at, fingerprint, trouble = given[i + 4], given[i + 5], given[i + 6]
    if read_at ~= '' then
      local known = tonumber(redis.call('HGET', key, 'w' .. letter) or '0')
      if tonumber(read_at) > known then
        if fingerprint ~= '' then
          redis.call('HSET', key, 'w' .. letter, string.format('%.0f', read_at), 'f' .. letter, fingerprint)
        else
          redis.call('HSET', key, 'w' .. letter, string.format('%.0f', read_at))
        end
      end
    end
    if trouble == '-' then
      redis.call('HDEL', key, 'b' .. letter)
    elseif trouble ~= '' then
      redis.call('HSET', key, 'b' .. letter, trouble)
    end
    local score = redis.call('ZSCORE', due, arm)
    if score and tonumber(score) == tonumber(lease) then
      redis.call('ZADD', due, string.format('%.0f', now + tonumber(given[i + 3])), arm)
    else
      lost = lost + 1
    end
  else
    redis.call('ZREM', due, arm)
  end
  credentials[credential] = true
end
for credential in pairs(credentials) do
  reindex(credential, 0, 0)
end
return lost
