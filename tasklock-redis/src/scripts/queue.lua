
-- Who waits.

local CLAIM = 1000             -- a pushed grant lasts so long until it is confirmed
local LEASE = 30000            -- a waiter that has not asked for so long is gone
local UNHEARD = 5000           -- one that nobody listens for keeps its place for so long
local WAITING = LEASE + 60000  -- the ttl of everything about waiters
local INBOX = 'tasklock:1:inbox:'
local SLOT = ARGV[steps * 4 + 1]

local function drop(member)
  call('ZREM', queue, member)
  call('ZREM', leases, member)
  call('HDEL', names, member)
end

local function drop_dead()
  for _, member in ipairs(call('ZRANGEBYSCORE', leases, '-inf', ms, 'LIMIT', 0, 64)) do drop(member) end
end

local function enqueue()
  local entered = not call('ZSCORE', queue, me)
  if entered then
    local last = call('ZREVRANGE', queue, 0, 0, 'WITHSCORES')
    call('ZADD', queue, (tonumber(last[2]) or 0) + 1, me)
    call('HSET', names, me, mode and mode .. ' ' .. my_name or my_name)
  end
  call('ZADD', leases, ms + (entered and what == 'wait' and LEASE or LEASE - CLAIM), me)
  for _, key in ipairs({ queue, leases, names }) do call('PEXPIRE', key, WAITING) end
end

-- The mode a waiter wants it in, and its names, which begin with a number.
local function wanted(member)
  local text = call('HGET', names, member) or ''
  local how, name = text:match('^(%a%w*) (.*)$')
  return how, name or text
end

local here -- the node, in a cluster, once somebody is told something

-- How many listen here. Only here: a replica would repeat it to those who took it for the master, after nobody was found
-- to listen and the lock given to another. In a cluster it does, so they are told whose word it is.
local function publish(client, message)
  if SLOT then
    here = here or redis.pcall('CLUSTER', 'MYID')
    if type(here) ~= 'string' then here = '?' end
    return redis.pcall('SPUBLISH', INBOX .. '{' .. SLOT .. '}' .. client, here .. ' ' .. message)
  end
  redis.set_repl(redis.REPL_NONE)
  local heard = redis.pcall('PUBLISH', INBOX .. client, message)
  redis.set_repl(redis.REPL_ALL)
  return heard
end

-- Whether anybody heard it. Who may not publish is told by nobody, and polls: an error here would leave the lock
-- between two owners.
local function tell(member, message)
  local heard = publish(member:sub(1, 32), message)
  if heard == 0 then call('ZADD', leases, 'XX', 'LT', ms + UNHEARD, member) end
  return type(heard) == 'number' and heard > 0
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

-- Whether its lease is longer than this: a waiter that entered the queue with its first request looks again a claim
-- later, and then at its leisure.
local function alive_for(member, time)
  local alive_until = call('ZSCORE', leases, member)
  return alive_until and tonumber(alive_until) > ms + time
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
  local mine, told, taken_back, through = nil, {}, false, {}
  local in_turn = waiters()
  local member = in_turn()
  while member and (crowd or not record) do
    local asks = member == caller
    local how, name = mode, my_name
    if not asks then how, name = wanted(member) end
    if not admits(how) then
      if asks or not is_gone(member) then break end
    elseif asks then
      mine = admit(member, how, ttl, name)
      through[#through + 1] = member
      if not how then break end
    else
      -- Written before it is told: no push comes before its record.
      local _, token = admit(member, how, CLAIM, name)
      if tell(member, 'granted ' .. member .. ' ' .. token .. ' ' .. ms_text .. ' ' .. CLAIM .. ' ' .. owner) then
        told[member:sub(1, 32)] = true
        through[#through + 1] = member
      else
        taken_back = true
        if not crowd or remove(member) and count == 0 then record, crowd = false, nil end
      end
    end
    member = in_turn()
  end
  if caller and not mine and not member and admits(mode) then mine = admit(caller, mode, ttl, my_name) end
  if taken_back then
    if crowd then outlast() elseif not record then call('DEL', owner) end
  end
  local first = not member
  -- Should one never take it up, the next looks again when the claim is over, not when the ttl would be: by itself if its
  -- first look is still to come, else told to.
  -- Not one of a client that was told just now: it is the same that may hang.
  local function looks(waiter)
    if told[waiter:sub(1, 32)] then return false end
    return alive_for(waiter, LEASE - CLAIM) or tell(waiter, 'next ' .. waiter .. ' ' .. CLAIM)
  end
  local tries = 64
  while next(told) and member and tries > 0 and not looks(member) do member, tries = in_turn(), tries - 1 end
  for _, waiter in ipairs(through) do drop(waiter) end
  return mine, first
end

-- The same, where there is something to be had.
local function pass_on(caller)
  if crowd or not record then return settle(caller) end
end
