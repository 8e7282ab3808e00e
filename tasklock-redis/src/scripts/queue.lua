
-- Who waits for a lock.

slot = ARGV[steps * 4 + 1]

-- The mode a waiter wants it in, and its names, which begin with a number.
local function wanted(member)
  local text = call('HGET', names, member) or ''
  local how, name = text:match('^(%a%w*) (.*)$')
  return how, name or text
end

-- One that cannot enter yet keeps those behind it back, so it has to be there. If it has not asked for two seconds it is
-- asked whether it still waits: then it asks again, leaves, or its place is lost when a claim is over, as that of one
-- that was let in and hangs. Whether it is gone, and whether it was asked now.
local function is_gone(member)
  local alive_until = call('ZSCORE', leases, member)
  if not alive_until then return true end
  alive_until = tonumber(alive_until)
  if alive_until > ms + LEASE - 3 * CLAIM or alive_until <= ms + CLAIM then return false end
  local heard = tell(member, 'still ' .. member .. ' ' .. owner)
  -- Where nobody can be asked, all are there until their leases are over.
  if heard == nil then return false end
  if not heard then return true end
  call('ZADD', leases, 'XX', 'LT', ms + CLAIM, member)
  return false, true
end

-- When the one behind it looks again: when it is to be asked, or its claim is over; but the longer that one waits, the
-- more rarely.
local function after(member, behind)
  local left = tonumber(call('ZSCORE', leases, member) or 0) - ms
  if left > CLAIM then left = left - (LEASE - 3 * CLAIM) end
  local waited = us - tonumber(call('ZSCORE', queue, behind) or us)
  return math.floor(math.max(left + 1, waited / 2000, 1))
end

-- What can be had goes to the first waiters that are heard of, as many as may hold it together, and to the caller, for
-- its whole ttl, when its turn comes or nobody before it lives. The caller's token; and whether it stands before all who
-- live.
local function settle(caller)
  local mine, told, taken_back, through, more = nil, {}, false, {}, false
  local stopped_by
  local in_turn, member = begin_look()
  while member and (crowd or not record) do
    local asks = member == caller
    local how, name = mode, my_name
    if not asks then how, name = wanted(member) end
    local may = admits(how)
    if not may then
      if asks then break end
      local gone, asked = is_gone(member)
      if not gone then
        stopped_by = member
        told[member:sub(1, 32)] = asked
        break
      end
    end
    more = not asks and is_spent()
    if more then break end
    if asks then
      mine = admit(member, how, ttl, name)
      through[#through + 1] = member
      if not how then break end
    elseif may then
      -- Written before it is told: no push comes before its record.
      local _, token = admit(member, how, CLAIM, name)
      local heard = tell(member, 'granted ' .. member .. ' ' .. token .. ' ' .. ms_text .. ' ' .. CLAIM .. ' ' .. owner)
      if heard then
        told[member:sub(1, 32)] = true
        through[#through + 1] = member
        to_let_in = to_let_in - 1
      else
        to_look_at = to_look_at - 1
        taken_back = true
        if not crowd or remove(member) and count == 0 then record, crowd = false, nil end
        -- Nor would any other be told.
        if heard == nil then in_turn = function() end end
      end
    else
      to_look_at = to_look_at - 1
    end
    member = in_turn()
  end
  if caller and not mine and not member and admits(mode) then
    mine = admit(caller, mode, ttl, my_name)
    through[#through + 1] = caller
  end
  if taken_back then
    if crowd then shorten() elseif not record then call('DEL', owner) end
  end
  local first = not member
  if stopped_by and caller and what ~= 'try' and not told[stopped_by:sub(1, 32)] then
    local behind, rest = in_turn(), in_turn
    if behind == caller then again = after(stopped_by, caller) end
    in_turn = function()
      local one = behind or rest()
      behind = nil
      return one
    end
  end
  end_look(member, in_turn, told, through, more, caller and what ~= 'try' and not mine)
  return mine, first
end

-- The same, where there is something to be had.
local function pass_on(caller)
  again = nil
  if crowd or not record then return settle(caller) end
end
