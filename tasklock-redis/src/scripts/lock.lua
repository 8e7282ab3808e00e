-- Any number of steps in one call: the call itself costs more than what is done in it.
--
-- KEYS, five a step: owner, fence, queue, leases, names (see layout.rs)
-- ARGV, four a step: what, member, ttl in ms (0: it never ends), names of the owner
--
-- Steps on different locks were begun at the same time, so their order is free: those that find nobody waiting come
-- first. Those on one lock keep theirs. A step that fails does not keep the others from being done; its answer is
-- {-1, message}.

local CLAIM = 1000             -- a pushed grant lasts so long until it is confirmed
local LEASE = 30000            -- a waiter that has not asked for so long is gone
local UNHEARD = 5000           -- one that nobody listens for keeps its place for so long
local WITHDRAWN = 60000        -- a withdrawal is remembered for so long
local WAITING = LEASE + 60000  -- the ttl of everything about waiters
local FENCE = 2592000000       -- a fence that nobody raised for 30 days is forgotten: the clock has passed it
local INBOX = 'tasklock:1:inbox:'

local call = redis.call
local us, us_text, ms, ms_text -- the server's time, once somebody needs it: asking and writing it out costs
local owner, fence, queue, leases, names, what, me, ttl, my_name

local function look_at_clock()
  local time = call('TIME')
  local micros = ('000000' .. time[2]):sub(-6)
  us_text, ms_text = time[1] .. micros, time[1] .. micros:sub(1, 3)
  us, ms = tonumber(us_text), tonumber(ms_text)
end

local function step(i)
  local k, a = i * 5, i * 4
  owner, fence, queue, leases, names = KEYS[k - 4], KEYS[k - 3], KEYS[k - 2], KEYS[k - 1], KEYS[k]
  what, me, ttl, my_name = ARGV[a - 3], ARGV[a - 2], tonumber(ARGV[a - 1]), ARGV[a]
end

-- Its token is above every one before, and above the clock, which outlives a server that forgets.
local function take(member, px, name)
  local token, token_text = us, us_text
  local before = tonumber(call('SET', fence, us_text, 'PX', FENCE, 'GET') or 0)
  if before and before >= us then
    token, token_text = before + 1, string.format('%.0f', before + 1)
    call('SET', fence, token_text, 'PX', FENCE)
  end
  local record = member .. ' ' .. token_text .. ' ' .. ms_text .. ' ' .. name
  if px > 0 then call('SET', owner, record, 'PX', px) else call('SET', owner, record) end
  return token, token_text
end

local function is_of(record, member) return record and record:sub(1, #member + 1) == member .. ' ' end

local function token_of(record) return tonumber(record:match('^%S+ (%d+)')) end

-- Where nobody waits and nothing was withdrawn there are no leases, and nobody to settle with.
local function fast()
  if what == 'wait' or what == 'try' then
    if call('EXISTS', owner, leases) == 0 then
      if not us then look_at_clock() end
      return { 1, (take(me, ttl, my_name)), ms }
    end
  elseif what == 'leave' then
    local record = call('GET', owner)
    if call('EXISTS', leases) == 0 then
      if not is_of(record, me) then return { 0 } end
      call('DEL', owner)
      return { 1 }
    end
  elseif what == 'renew' then
    local record = call('GET', owner)
    if not is_of(record, me) then return { 0 } end
    if ttl > 0 then call('PEXPIRE', owner, ttl) else call('PERSIST', owner) end
    return { 1, token_of(record) }
  elseif what == 'inspect' then
    if not us then look_at_clock() end
    return { call('GET', owner) or '', call('PTTL', owner), call('ZCARD', queue), ms }
  end
end

local answers, rest, put_off = {}, {}, nil
local steps, at = #ARGV / 4, 0

-- From the step after the last one tried, to the end or to one that fails.
local function go_on()
  while at < steps do
    at = at + 1
    step(at)
    local answer = not (put_off and put_off[owner]) and fast()
    answers[at] = answer or false
    if not answer then
      rest[#rest + 1] = at
      put_off = put_off or {}
      put_off[owner] = true
    end
  end
end

local function failed(why) return { -1, type(why) == 'table' and why.err or tostring(why) } end

while at < steps do
  local done, why = pcall(go_on)
  if not done then answers[at] = failed(why) end
end
if #rest == 0 then return answers end
if not us then look_at_clock() end

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

-- The waiters from this rank on, by chunks.
local function waiters(rank)
  local chunk, i = {}, 0
  return function()
    i = i + 1
    if i > #chunk then
      chunk, i = call('ZRANGE', queue, rank, rank + 15), 1
      rank = rank + #chunk
    end
    return chunk[i]
  end
end

-- A free lock goes to the first waiter that is heard of: to the caller, for its whole ttl, if it is the first or if
-- nobody before it lives. The token if it is the caller's.
local function settle(caller)
  if call('EXISTS', owner) == 1 then return end
  local rank, written = 0, false
  for member in waiters(0) do
    if member == caller then
      drop(member)
      return take(member, ttl, my_name)
    end
    -- Written before it is told: no push comes before its record.
    local _, token = take(member, CLAIM, call('HGET', names, member) or '')
    written = true
    if tell(member, 'granted ' .. member .. ' ' .. token .. ' ' .. ms_text .. ' ' .. CLAIM .. ' ' .. owner) then
      drop(member)
      -- Should that one never take it up, the next looks again when the claim is over, not when the ttl would be.
      for after in waiters(rank) do
        if tell(after, 'next ' .. after .. ' ' .. CLAIM) then break end
      end
      return
    end
    rank = rank + 1
  end
  if caller then return take(caller, ttl, my_name) end
  if written then call('DEL', owner) end
end

-- Never sooner: an attempt that comes late must not cut what was renewed since.
local function lengthen()
  if ttl == 0 then
    call('PERSIST', owner)
  else
    local left = call('PTTL', owner)
    if left >= 0 and left < ttl then call('PEXPIRE', owner, ttl) end
  end
end

local function enqueue()
  if not call('ZSCORE', queue, me) then
    local last = call('ZREVRANGE', queue, 0, 0, 'WITHSCORES')
    call('ZADD', queue, (tonumber(last[2]) or 0) + 1, me)
    call('HSET', names, me, my_name)
  end
  call('ZADD', leases, ms + LEASE, me)
  for _, key in ipairs({ queue, leases, names }) do call('PEXPIRE', key, WAITING) end
end

local function acquire()
  drop_dead()
  if call('ZSCORE', leases, 'x' .. me) then return { 2 } end
  local record = call('GET', owner)
  if is_of(record, me) then
    lengthen()
    return { 1, token_of(record), ms }
  end
  if what == 'wait' then enqueue() end
  local token = settle(me)
  if token then return { 1, token, ms } end
  local rank = call('ZRANK', queue, me)
  return { 0, call('GET', owner) or '', call('PTTL', owner), rank or -1, ms }
end

local function leave()
  drop_dead()
  if what == 'withdraw' then
    call('ZADD', leases, ms + WITHDRAWN, 'x' .. me)
    call('PEXPIRE', leases, WAITING)
  end
  drop(me)
  local mine = is_of(call('GET', owner), me)
  if mine then call('DEL', owner) end
  settle()
  return { mine and 1 or 0 }
end

-- Ends the hold whatever nonce has it, or only this one.
local function revoke()
  drop_dead()
  local record = call('GET', owner)
  local found = record and (me == '' or record:sub(34, 33 + #me) == me)
  if found then call('DEL', owner) end
  settle()
  return { found and 1 or 0 }
end

local function slow()
  if what == 'wait' or what == 'try' then return acquire() end
  if what == 'revoke' then return revoke() end
  if what == 'leave' or what == 'withdraw' then return leave() end
  return fast() -- put off behind another step on the same lock
end

for _, i in ipairs(rest) do
  step(i)
  local done, answer = pcall(slow)
  answers[i] = done and answer or failed(answer)
end
return answers
