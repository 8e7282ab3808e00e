
-- What is asked, where it takes longer.

local WITHDRAWN = 60000 -- a withdrawal is remembered for so long

-- How it stands, for one that did not get it. Of several the first to end; whatever is granted later has a token above
-- the last of them.
local function standing()
  if not crowd then return { record or '', call('PTTL', owner), rank(), ms, again } end
  local first = living('LIMIT', 0, 1)
  local text, left = shown(first[1], first[2])
  return { text, left, rank(), ms, call('GET', base .. 'fence') or '0', again }
end

local function is_withdrawn() return call('ZSCORE', leases, 'x' .. me) end

local function acquire()
  drop_dead()
  if is_withdrawn() then return -1 end
  look()
  local token = lengthen()
  if token then return token end
  if what ~= 'try' then enqueue(mode and mode .. ' ' .. my_name or my_name) end
  return pass_on(me) or standing()
end

-- All of these locks, or none.
local function acquire_all()
  local answers, mine, all = {}, {}, true
  for i = 1, steps do
    step(i)
    drop_dead()
    look()
    local _, first = pass_on()
    if is_withdrawn() then
      answers[i], all = -1, false
    else
      mine[i] = lengthen()
      if not (mine[i] or first and admits(mode)) then answers[i], all = standing(), false end
    end
  end
  -- What the caller has of them already stays: this may be a late copy of an attempt that was granted, and whoever did not
  -- hear of that ends what it has by itself.
  for i = 1, steps do
    if all then
      step(i)
      look()
      answers[i] = mine[i] or admit(me, mode, ttl, my_name)
    end
    answers[i] = answers[i] or 0
  end
  return answers
end

local function leave()
  drop_dead()
  if what == 'withdraw' then
    call('ZREM', leases, '') -- a full server refuses what may grow to a call that has not written before
    call('ZADD', leases, ms + WITHDRAWN, 'x' .. me)
    call('PEXPIRE', leases, WAITING)
  end
  look()
  -- Whoever has it no longer waits for it.
  local held = let_go()
  if not held then drop({ me }) end
  pass_on()
  return held and 1 or 0
end

-- Ends the hold whatever nonce has it, or only this one.
local function revoke()
  local function is_meant(member) return me == '' or member:sub(34) == me end
  drop_dead()
  look()
  local any = false
  if crowd and me == '' then
    forget_all()
    any = true
  elseif crowd then
    local all = living()
    for i = 1, #all, 2 do any = is_meant(all[i]) and remove(all[i]) or any end
    shorten()
  elseif record and is_meant(record:match('^%S+')) then
    call('DEL', owner)
    record, any = false, true
  end
  pass_on()
  return any and 1 or 0
end

-- Renews, and sets the value beside the lock: both or neither.
local function update()
  what = 'renew'
  local token = renew()
  if token ~= 0 then write(base .. 'value', my_name, ttl) end
  return token
end

local function inspect()
  look()
  local answer = { record or '', call('PTTL', owner), call('ZCARD', queue), ms }
  local all = crowd and living() or {}
  for i = 1, #all, 2 do
    local text, left = shown(all[i], all[i + 1])
    if i == 1 then answer[1], answer[2] = text, left else answer[#answer + 1] = { text, left } end
  end
  return answer
end

local function slow(i)
  local answer = untried[i] and quick(i)
  if answer then return answer end
  step(i)
  if what == 'wait' or what == 'try' or what == 'poll' then return acquire() end
  if what == 'leave' or what == 'withdraw' then return leave() end
  if what == 'revoke' then return revoke() end
  if what == 'value' then return read() end
  if what == 'change' or what == 'remove' then return change() end
  if what == 'update' then return update() end
  if what == 'inspect' then return inspect() end
  return stay()
end

if ARGV[1]:sub(1, 3) == 'all' then
  local done, all = pcall(acquire_all)
  for i = 1, steps do answers[i] = done and all[i] or failed(all) end
  return steps == 1 and answers[1] or answers
end

for _, i in ipairs(rest) do
  local done, answer = pcall(slow, i)
  answers[i] = done and answer or failed(answer)
end
return steps == 1 and answers[1] or answers
