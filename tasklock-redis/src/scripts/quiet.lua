
-- Where nobody waits: those who share a lock come, stay and go, and need not know of a line.

local function stay()
  local token = renew()
  return token == 0 and 0 or with_more(base, token, my_name)
end

-- No answer here where there may be somebody to settle with: where there are leases.
local function quiet(i)
  step(i)
  if what == 'renew' then return stay() end
  local asks = mode and (what == 'wait' or what == 'try' or what == 'poll')
  if not (asks or what == 'leave') or call('EXISTS', leases) == 1 then return end
  look()
  if not asks then return let_go() and 1 or 0 end
  return lengthen() or admits(mode) and (admit(me, mode, ttl, my_name)) or nil
end

-- One that is alone has been tried with the first of these.
local function quick(i) return steps > 1 and fast(i) or quiet(i) end

local answers, rest, untried = {}, {}, {}
local put_off, at = {}, 0

-- From the step after the last one tried, to the end or to one that fails.
local function go_on()
  while at < steps do
    at = at + 1
    untried[at] = put_off[KEYS[at]]
    local answer = not untried[at] and quick(at)
    answers[at] = answer or false
    if not answer then
      rest[#rest + 1] = at
      put_off[KEYS[at]] = true
    end
  end
end

local function failed(why) return { type(why) == 'table' and why.err or tostring(why) } end

while at < steps do
  local done, why = pcall(go_on)
  if not done then answers[at] = failed(why) end
end
if #rest == 0 then return steps == 1 and answers[1] or answers end
