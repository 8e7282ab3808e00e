-- Tokens, and what every step of a lock or a pool begins with.

local FENCE = '2592000000' -- a fence that nobody raised for 30 days is forgotten: the clock has passed it

local call = redis.call
local us, us_text          -- the server's time, once somebody needs it: asking and writing it out costs
local ms, ms_text

-- The step under way, and the keys of its line.
local what, me
local queue, leases, names

local function look_at_clock()
  local time = call('TIME')
  local micros = time[2]
  if #micros < 6 then micros = ('00000' .. micros):sub(-6) end
  us_text = time[1] .. micros
  us, ms_text = tonumber(us_text), us_text:sub(1, -4)
  ms = tonumber(ms_text)
end

-- The next token: above every one before, and above the clock, which outlives a server that forgets.
local function mint(base)
  local token, token_text = us, us_text
  local before = tonumber(call('SET', base .. 'fence', us_text, 'PX', FENCE, 'GET') or 0)
  if before and before >= us then
    token, token_text = before + 1, string.format('%.0f', before + 1)
    call('SET', base .. 'fence', token_text, 'PX', FENCE)
  end
  return token, token_text
end

local function is_of(record, member)
  return record and record:find(member, 1, true) == 1 and record:byte(#member + 1) == 32
end
