-- Lease due arms to a poll pump, spending each credential's budget, the longest overdue first.
-- KEYS: creds
-- ARGV: how many at most, lease (ms), horizon (ms): how far ahead send times may be granted
-- Returns {now, next, arm...}: `next` is when something can be claimed again ('' for never); an arm is
--   {member, credential, end of lease, send time, fingerprint, read_at, user, token revision, tracking, status,
--    trouble}.
-- The end of its lease is an arm's fencing token: it is the arm's score, and no two leases of an arm end together.
local want, lease, horizon = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()
local until_ms = string.format('%.0f', now + lease)
local out = {now, ''}
for _, credential in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 64)) do
  local due, budget = P .. 'due:' .. credential, P .. 'budget:' .. credential
  local spent = redis.call('HMGET', budget, 'rate', 'tat')
  local rate = tonumber(spent[1] or '0') or 0
  local tat = math.max(tonumber(spent[2] or '0') or 0, now)
  local room = want
  if rate > 0 then
    room = math.min(want, math.floor((now + horizon - tat) * rate / 1000))
  end
  local arms = {}
  if room > 0 then
    arms = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, room)
  end
  for _, arm in ipairs(arms) do
    local letter, retailer, order = split_arm(arm)
    local f = redis.call('HMGET', P .. 'order:' .. retailer .. ':' .. order,
      'r', 'f' .. letter, 'w' .. letter, 'u', 'kv', 't', 'g', 'b' .. letter)
    if not f[1] then
      redis.call('ZREM', due, arm)
    else
      redis.call('ZADD', due, until_ms, arm)
      out[#out + 1] = {arm, credential, until_ms, string.format('%.0f', tat), f[2] or '', f[3] or '', f[4] or '',
        f[5] or '', f[6] or '', f[7] or '', f[8] or ''}
      want = want - 1
      if rate > 0 then
        tat = tat + 1000 / rate
      end
    end
  end
  if rate > 0 and #arms > 0 then
    redis.call('HSET', budget, 'tat', string.format('%.3f', tat))
  end
  reindex(credential, tat + 1000 / math.max(rate, 0.001) - horizon, rate)
  if want <= 0 then
    break
  end
end
local head = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if head[2] then
  out[2] = head[2]
end
return out
