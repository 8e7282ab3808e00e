
-- Who waits for a lock.

slot = ARGV[steps * 4 + 1]

-- The mode a waiter wants it in, and its names, which begin with a number.
local function wanted(member)
  local text = call('HGET', names, member) or ''
  local how, name = text:match('^(%a%w*) (.*)$')
  return how, name or text
end

-- One that cannot enter yet keeps those behind it back, so it has to be there. Its client leaves for it if it no longer
-- waits.
local function is_gone(member)
  return not alive_for(member, LEASE - 3 * CLAIM) and not tell(member, 'still ' .. member .. ' ' .. owner)
end

-- What can be had goes to the first waiters that are heard of, as many as may hold it together, and to the caller, for
-- its whole ttl, when its turn comes or nobody before it lives. The caller's token; and whether it stands before all who
-- live.
local function settle(caller)
  local mine, told, taken_back, through, more = nil, {}, false, {}, false
  local in_turn, member = begin_look()
  while member and (crowd or not record) do
    local asks = member == caller
    local how, name = mode, my_name
    if not asks then how, name = wanted(member) end
    local may = admits(how)
    if not may and (asks or not is_gone(member)) then break end
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
  if caller and not mine and not member and admits(mode) then mine = admit(caller, mode, ttl, my_name) end
  if taken_back then
    if crowd then outlast() elseif not record then call('DEL', owner) end
  end
  local first = not member
  end_look(member, in_turn, told, through, more, caller and what ~= 'try' and not mine)
  return mine, first
end

-- The same, where there is something to be had.
local function pass_on(caller)
  again = nil
  if crowd or not record then return settle(caller) end
end
