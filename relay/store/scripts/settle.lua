-- Put claimed arms back in one call: those that found nothing new, and those that upstream would not answer.
-- KEYS: creds
-- ARGV, seven an arm: member, credential, end of lease, delay (ms) until it is due again, read_at ('' when it was
--   not read), fingerprint ('' when the stored one stands), trouble ('' to leave, '-' to clear, else JSON)
-- Returns how many leases had been lost (their arms are due by somebody else's word).
local now = now_ms()
local lost = 0
local credentials = {}
for i = 1, #ARGV, 7 do
  local arm, credential, lease = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local due = P .. 'due:' .. credential
  local letter, retailer, order = split_arm(arm)
  local key = P .. 'order:' .. retailer .. ':' .. order
  if redis.call('HEXISTS', key, 'r') == 1 then
    local read_at, fingerprint, trouble = ARGV[i + 4], ARGV[i + 5], ARGV[i + 6]
    if read_at ~= '' then
      local known = tonumber(redis.call('HGET', key, 'w' .. letter) or '0')
      if tonumber(read_at) > known then
        if fingerprint ~= '' then
          redis.call('HSET', key, 'w' .. letter, read_at, 'f' .. letter, fingerprint)
        else
          redis.call('HSET', key, 'w' .. letter, read_at)
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
      redis.call('ZADD', due, string.format('%.0f', now + tonumber(ARGV[i + 3])), arm)
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
