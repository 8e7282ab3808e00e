
-- The line in front of a lock or a pool.

local CLAIM = 1000             -- a pushed grant lasts so long until it is confirmed
local LEASE = 30000            -- a waiter that has not asked for so long is gone
-- One that nobody listens for keeps its place for so long. It may be less than what is between two requests of a waiter:
-- whoever listens is not among these, since its inbox counts as a listener, and whoever listens again has asked right
-- after that, which makes its lease as long as any. So it is the time that a client has for connecting again.
local UNHEARD = 5000
local WAITING = LEASE + 60000  -- the ttl of everything about waiters
local AT_ONCE = 64             -- no call lets in more waiters
local LOOKED_AT = 128          -- nor passes over more that are gone
local SOON = 10                -- whoever asked and is to go on with what a call left does so after so long
local ASIDE = 2 ^ 53           -- one that nobody listens for stands so far before its ticket: aside, in order
local INBOX = 'tasklock:1:inbox:'

if not us then look_at_clock() end

local slot -- in a cluster, what is in the braces of the inboxes of this one

-- What is left of these to this call, however many steps it has.
local to_let_in, to_look_at = AT_ONCE, LOOKED_AT

local function is_spent() return to_let_in == 0 or to_look_at == 0 end

local function drop(gone)
  call('ZREM', queue, unpack(gone))
  call('ZREM', leases, unpack(gone))
  call('HDEL', names, unpack(gone))
end

local function drop_dead()
  local gone = call('ZRANGEBYSCORE', leases, '-inf', ms, 'LIMIT', 0, 64)
  if #gone > 0 then drop(gone) end
end

-- With what it wants, for those who pass that on. Tickets follow the clock, so that nobody who comes later is before one
-- that stands aside. Whoever did so and asks is there again, in its place. A key that is something else ends the call where
-- it stands: none that was written before is left without an end.
local function enqueue(wish)
  local ticket = call('ZSCORE', queue, me)
  local entered = not ticket
  if entered then call('HSET', names, me, wish) end
  call('PEXPIRE', names, WAITING)
  if entered then
    local last = tonumber(call('ZREVRANGE', queue, 0, 0, 'WITHSCORES')[2]) or 0
    call('ZADD', queue, math.max(last + 1, us), me)
  elseif tonumber(ticket) < 0 then
    call('ZADD', queue, ticket + ASIDE, me)
  end
  call('PEXPIRE', queue, WAITING)
  call('ZADD', leases, ms + (entered and what == 'wait' and LEASE or LEASE - CLAIM), me)
  call('PEXPIRE', leases, WAITING)
end

-- How many stand before the caller, but for those aside; -1 if it does not wait.
local function rank()
  local ticket = call('ZSCORE', queue, me)
  return ticket and call('ZCOUNT', queue, 0, '(' .. ticket) or -1
end

-- When whoever is answered is to look again, if that is sooner than it would: there was more to do.
local again

local here -- the node, in a cluster, once somebody is told something

-- How many listen here. Only here: a replica would repeat it to those who took it for the master, after nobody was found
-- to listen and the lock given to another. In a cluster it does, so they are told whose word it is.
local function publish(client, message)
  if slot then
    here = here or redis.pcall('CLUSTER', 'MYID')
    if type(here) ~= 'string' then here = '?' end
    return redis.pcall('SPUBLISH', INBOX .. '{' .. slot .. '}' .. client, here .. ' ' .. message)
  end
  redis.set_repl(redis.REPL_NONE)
  local heard = redis.pcall('PUBLISH', INBOX .. client, message)
  redis.set_repl(redis.REPL_ALL)
  return heard
end

local unheard = {} -- those that nobody was found to listen for

-- Whether anybody heard it; nothing, if there is no telling. Who may not publish is told by nobody, and polls: an error
-- here would leave the lock between two owners.
local function tell(member, message)
  local heard = publish(member:sub(1, 32), message)
  if type(heard) ~= 'number' then return nil end
  if heard == 0 and not unheard[member] then
    unheard[member] = true
    unheard[#unheard + 1] = member
  end
  return heard > 0
end

-- They are not looked at again, unless they ask.
local function set_aside()
  for _, member in ipairs(unheard) do
    call('ZADD', queue, 'XX', 'INCR', -ASIDE, member)
    call('ZADD', leases, 'XX', 'LT', ms + UNHEARD, member)
  end
end

-- Those in line in turn, by chunks.
local function waiters()
  local chunk, i, seen = {}, 0, 0
  return function()
    i = i + 1
    if i > #chunk then
      chunk, i = call('ZRANGEBYSCORE', queue, 0, '+inf', 'LIMIT', seen, 16), 1
      seen = seen + #chunk
    end
    return chunk[i]
  end
end

-- Has somebody look who is there, at once: the first of those that are left, or whoever came last, for others may be gone
-- for as many as there are. Each that is heard of goes on by itself if this one is gone, but later.
local function have_look(member, in_turn, told)
  local last, i = nil, 0
  while i < 16 do
    i = i + 1
    if member and tell(member, 'next ' .. member .. ' 0') then
      told[member:sub(1, 32)] = true
      return
    end
    if i < 8 then
      member = in_turn()
    else
      last = last or call('ZRANGE', queue, '+inf', 0, 'BYSCORE', 'REV', 'LIMIT', 0, 8)
      member = last[i - 7]
    end
  end
end

-- Whether its lease is longer than this: a waiter that entered the queue with its first request looks again a claim
-- later, and then at its leisure.
local function alive_for(member, time)
  local alive_until = call('ZSCORE', leases, member)
  return alive_until and tonumber(alive_until) > ms + time
end

-- Begins a look at the line: those in it, in turn, and the first of them.
local function begin_look()
  unheard = {}
  local in_turn = waiters()
  return in_turn, in_turn()
end

-- Ends it. `member` is the first that is left, and those behind it come in turn; the clients in `told` have been told, and
-- what is in `through` waits no longer. What was too much for one call is done by the next, which the caller makes if it
-- waits, or one that waits is told to.
local function end_look(member, in_turn, told, through, more, waits)
  if more and waits then again = SOON elseif more then have_look(member, in_turn, told) end
  -- Should one never take it up, the next looks again when the claim is over, not when the ttl would be: by itself if its
  -- first look is still to come, else told to.
  -- Not one of a client that was told just now: it is the same that may hang.
  local function looks(waiter)
    if told[waiter:sub(1, 32)] then return false end
    return alive_for(waiter, LEASE - CLAIM) or tell(waiter, 'next ' .. waiter .. ' ' .. CLAIM)
  end
  local tries = 64
  while next(told) and member and tries > 0 and not looks(member) do member, tries = in_turn(), tries - 1 end
  if #through > 0 then drop(through) end
  set_aside()
end
