-- What of some pools is due and not claimed.
-- ARGV: pools
-- Returns {how many, since when the first of them is due (ms; '' for none)} each.
local now = now_ms()
local out = {}
for number, pool in ipairs(ARGV) do
  local count, first = 0, nil
  local function add(key)
    local head = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
    if head and tonumber(head) <= now then
      count = count + redis.call('ZCOUNT', key, '-inf', now)
      first = math.min(first or now, tonumber(head))
    end
  end
  for class = 0, CLASSES - 1 do
    add(due_key(pool, class))
  end
  add(P .. 'claimed:' .. pool) -- their leases have run out
  out[number] = {count, first and string.format('%.0f', first) or ''}
end
return out
