-- When the next arm of each order is due, claimed ones now.
-- ARGV: retailer, then credential and order in turn
-- Returns a list of times (ms), '' for an order of which nothing is polled.
local retailer, out, now = ARGV[1], {}, now_ms()
for i = 2, #ARGV, 2 do
  local pool, soonest = ARGV[i] .. '/' .. retailer, nil
  for _, letter in ipairs(LETTERS) do
    local arm = letter .. '/' .. ARGV[i + 1]
    if redis.call('ZSCORE', P .. 'claimed:' .. pool, arm) then
      soonest = math.min(soonest or now, now)
    else
      for class = 0, CLASSES - 1 do
        local at = redis.call('ZSCORE', due_key(pool, class), arm)
        if at then
          soonest = math.min(soonest or tonumber(at), tonumber(at))
          break
        end
      end
    end
  end
  out[#out + 1] = soonest and string.format('%.0f', soonest) or ''
end
return out
