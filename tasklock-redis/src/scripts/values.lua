
-- Values beside locks.

local GREATEST = 9007199254740991 -- what is beyond is not compared exactly, and is no number

local function number(text)
  local value = text:match('^%-?%d+$') and tonumber(text)
  return value and math.abs(value) <= GREATEST and value
end

-- No value is less than every number, and equal to nothing.
local function holds(value)
  if mode == 'always' then return true end
  if mode == 'absent' then return not value end
  if mode == 'eq' then return value == me end
  if mode == 'ne' then return value ~= me end
  local this, other = not value and -math.huge or value and number(value), tonumber(me)
  if not this then return false end
  if mode == 'lt' then return this < other end
  if mode == 'le' then return this <= other end
  if mode == 'ge' then return this >= other end
  return this > other
end

local function read()
  local value = call('GET', base .. 'value')
  return value and { value, call('PTTL', base .. 'value') } or 0
end

-- For these steps the member is what is compared with, and the owner's names are the new value.
local function change()
  if not holds(call('GET', base .. 'value')) then return 0 end
  if what == 'remove' then return call('DEL', base .. 'value') end
  write(base .. 'value', my_name, ttl)
  return 1
end
