-- Any number of steps in one call: the call itself costs more than what is done in it.
--
-- KEYS, one a step: the owner's. The other keys of a lock differ from it in their ends (see layout.rs), and share its
-- slot: handing them all over would take longer than most steps do.
-- ARGV, four a step: what, member, ttl in ms (0: it never ends), names of the owner (of a renewal: how many more tokens)
--
-- An answer: 0, no; 1, yes, or the token; -1, withdrawn; {token, first of more, number of waiters}; {record, ttl left, rank or number of waiters, ms}, how the lock
-- stands; {message}, it failed. A step alone is answered with its own, many with an array of theirs.
--
-- Steps on different locks were begun at the same time, so their order is free: those that find nobody waiting come
-- first. Those on one lock keep theirs. A step that fails does not keep the others from being done.

local FENCE = '2592000000' -- a fence that nobody raised for 30 days is forgotten: the clock has passed it

local call = redis.call
local us, us_text          -- the server's time, once somebody needs it: asking and writing it out costs

local function look_at_clock()
  local time = call('TIME')
  local micros = time[2]
  if #micros < 6 then micros = ('00000' .. micros):sub(-6) end
  us_text = time[1] .. micros
  us = tonumber(us_text)
end

-- Its token is above every one before, and above the clock, which outlives a server that forgets.
local function take(base, member, px, name)
  local token, token_text = us, us_text
  local before = tonumber(call('SET', base .. 'fence', us_text, 'PX', FENCE, 'GET') or 0)
  if before and before >= us then
    token, token_text = before + 1, string.format('%.0f', before + 1)
    call('SET', base .. 'fence', token_text, 'PX', FENCE)
  end
  local record = member .. ' ' .. token_text .. ' ' .. us_text:sub(1, -4) .. ' ' .. name
  if px ~= '0' then call('SET', base .. 'owner', record, 'PX', px) else call('SET', base .. 'owner', record) end
  return token, token_text
end

-- So many more tokens for who has the lock, above every one before and above the clock; the first of them.
local function reserve(base, count)
  if not us then look_at_clock() end
  local first = math.max(us, (tonumber(call('GET', base .. 'fence') or 0) or 0) + 1)
  call('SET', base .. 'fence', string.format('%.0f', first + count - 1), 'PX', FENCE)
  return first
end

local function is_of(record, member)
  return record and record:find(member, 1, true) == 1 and record:byte(#member + 1) == 32
end

local function token_of(record) return tonumber(record:match('^%S+ (%d+)')) end

-- Where nobody waits and nothing was withdrawn there are no leases, and nobody to settle with.
local function fast(i)
  local owner, what, me = KEYS[i], ARGV[i * 4 - 3], ARGV[i * 4 - 2]
  local base = owner:sub(1, -6)
  if what == 'wait' or what == 'try' or what == 'poll' then
    if call('EXISTS', owner, base .. 'leases') == 0 then
      if not us then look_at_clock() end
      return (take(base, me, ARGV[i * 4 - 1], ARGV[i * 4]))
    end
  elseif what == 'leave' then
    local record = call('GET', owner)
    if call('EXISTS', base .. 'leases') == 0 then
      if not is_of(record, me) then return 0 end
      call('DEL', owner)
      return 1
    end
  elseif what == 'renew' then
    local record, px = call('GET', owner), ARGV[i * 4 - 1]
    if not is_of(record, me) then return 0 end
    if px ~= '0' then call('PEXPIRE', owner, px) else call('PERSIST', owner) end
    local more = tonumber(ARGV[i * 4])
    if not more then return token_of(record) end
    return { token_of(record), reserve(base, more), call('ZCARD', base .. 'queue') }
  elseif what == 'inspect' then
    if not us then look_at_clock() end
    local ms = math.floor(us / 1000)
    return { call('GET', owner) or '', call('PTTL', owner), call('ZCARD', base .. 'queue'), ms }
  end
end

-- Most steps are alone and find nobody waiting. They end here, and what is made below costs them nothing.
local steps = #KEYS
if steps == 1 then
  local answer = fast(1)
  if answer then return answer end
end

local CLAIM = 1000             -- a pushed grant lasts so long until it is confirmed
local LEASE = 30000            -- a waiter that has not asked for so long is gone
local UNHEARD = 5000           -- one that nobody listens for keeps its place for so long
local WITHDRAWN = 60000        -- a withdrawal is remembered for so long
local WAITING = LEASE + 60000  -- the ttl of everything about waiters
local INBOX = 'tasklock:1:inbox:'

local answers, rest, put_off = {}, {}, {}
local at = 0

-- From the step after the last one tried, to the end or to one that fails.
local function go_on()
  while at < steps do
    at = at + 1
    local answer = steps > 1 and not put_off[KEYS[at]] and fast(at)
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
if #rest == 0 then return answers end

if not us then look_at_clock() end
local ms, ms_text = math.floor(us / 1000), us_text:sub(1, -4)
local base, owner, queue, leases, names, what, me, ttl, my_name

local function step(i)
  owner, what, me, ttl, my_name = KEYS[i], ARGV[i * 4 - 3], ARGV[i * 4 - 2], ARGV[i * 4 - 1], ARGV[i * 4]
  base = owner:sub(1, -6)
  queue, leases, names = base .. 'queue', base .. 'leases', base .. 'names'
end

local function drop(member)
  call('ZREM', queue, member)
  call('ZREM', leases, member)
  call('HDEL', names, member)
end

local function drop_dead()
  for _, member in ipairs(call('ZRANGEBYSCORE', leases, '-inf', ms, 'LIMIT', 0, 64)) do drop(member) end
end

-- Whether anybody heard it. Who may not publish is told by nobody, and polls: an error here would leave the lock
-- between two owners.
local function tell(member, message)
  local heard = redis.pcall('PUBLISH', INBOX .. member:sub(1, 32), message)
  if type(heard) == 'number' and heard > 0 then return true end
  call('ZADD', leases, 'XX', 'LT', ms + UNHEARD, member)
  return false
end

-- The waiters in turn, by chunks.
local function waiters()
  local chunk, i, rank = {}, 0, 0
  return function()
    i = i + 1
    if i > #chunk then
      chunk, i = call('ZRANGE', queue, rank, rank + 15), 1
      rank = rank + #chunk
    end
    return chunk[i]
  end
end

-- A waiter that entered the queue with its first request looks again a claim later; its lease says whether it has.
local function looks_soon(member)
  local alive_until = call('ZSCORE', leases, member)
  return alive_until and tonumber(alive_until) > ms + LEASE - CLAIM
end

-- A free lock goes to the first waiter that is heard of: to the caller, for its whole ttl, if it is the first or if
-- nobody before it lives. The token if it is the caller's.
local function settle(caller)
  local written, in_turn = false, waiters()
  for member in in_turn do
    if member == caller then
      drop(member)
      return take(base, member, ttl, my_name)
    end
    -- Written before it is told: no push comes before its record.
    local _, token = take(base, member, CLAIM, call('HGET', names, member) or '')
    written = true
    if tell(member, 'granted ' .. member .. ' ' .. token .. ' ' .. ms_text .. ' ' .. CLAIM .. ' ' .. owner) then
      -- Should that one never take it up, the next looks again when the claim is over, not when the ttl would be: by
      -- itself if its first look is still to come, else told to.
      for after in in_turn do
        if looks_soon(after) or tell(after, 'next ' .. after .. ' ' .. CLAIM) then break end
      end
      return drop(member)
    end
  end
  if caller then return take(base, caller, ttl, my_name) end
  if written then call('DEL', owner) end
end

-- Never sooner: an attempt that comes late must not cut what was renewed since.
local function lengthen()
  if ttl == '0' then
    call('PERSIST', owner)
  else
    local left = call('PTTL', owner)
    if left >= 0 and left < tonumber(ttl) then call('PEXPIRE', owner, ttl) end
  end
end

local function enqueue()
  local entered = not call('ZSCORE', queue, me)
  if entered then
    local last = call('ZREVRANGE', queue, 0, 0, 'WITHSCORES')
    call('ZADD', queue, (tonumber(last[2]) or 0) + 1, me)
    call('HSET', names, me, my_name)
  end
  call('ZADD', leases, ms + (entered and what == 'wait' and LEASE or LEASE - CLAIM), me)
  for _, key in ipairs({ queue, leases, names }) do call('PEXPIRE', key, WAITING) end
end

local function acquire()
  drop_dead()
  if call('ZSCORE', leases, 'x' .. me) then return -1 end
  local record = call('GET', owner)
  if is_of(record, me) then
    lengthen()
    return token_of(record)
  end
  if what ~= 'try' then enqueue() end
  if not record then
    local token = settle(me)
    if token then return token end
    record = call('GET', owner) or ''
  end
  return { record, call('PTTL', owner), call('ZRANK', queue, me) or -1, ms }
end

-- Ends the hold, if this is one, and lets the next in; whether it was.
local function pass_on(held)
  if held then call('DEL', owner) end
  if held or call('EXISTS', owner) == 0 then settle() end
  return held and 1 or 0
end

local function leave()
  drop_dead()
  if what == 'withdraw' then
    call('ZADD', leases, ms + WITHDRAWN, 'x' .. me)
    call('PEXPIRE', leases, WAITING)
  end
  -- Whoever has it no longer waits for it.
  local mine = is_of(call('GET', owner), me)
  if not mine then drop(me) end
  return pass_on(mine)
end

-- Ends the hold whatever nonce has it, or only this one.
local function revoke()
  drop_dead()
  local record = call('GET', owner)
  return pass_on(record and (me == '' or record:sub(34, 33 + #me) == me))
end

local function slow(i)
  if what == 'wait' or what == 'try' or what == 'poll' then return acquire() end
  if what == 'revoke' then return revoke() end
  if what == 'leave' or what == 'withdraw' then return leave() end
  return fast(i) -- put off behind another step on the same lock
end

for _, i in ipairs(rest) do
  step(i)
  local done, answer = pcall(slow, i)
  answers[i] = done and answer or failed(answer)
end
return steps == 1 and answers[1] or answers
