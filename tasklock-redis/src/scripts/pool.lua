
-- One step on one pool, or the renewal of several of its holds.
--
-- KEYS: the pool's members, by the time from which each is free. The other keys of the pool differ from it in their ends
-- (see pools.rs), and share its slot. In a cluster another one, which is never there: the server does not begin while the
-- slot is on its way. At its end is what is in the braces of the inboxes of this slot.
-- ARGV: what, and what that needs; see there.
--
-- A member is a lock: its record, under `lock:member`, says who has it, and nothing else does. The score of a member tells
-- where to look: below 0 it is free, since then; else held until then.
--
-- An answer to try, wait and poll: {token, member}; -1, withdrawn; or {record, ttl left, rank, ms}, if none is free: the
-- record of the one whose time is over first, and behind it, if it is sooner than otherwise, in how many ms to look again. To
-- leave and withdraw: 1 or 0. To renew: a token or 0 for each.

local WITHDRAWN = 60000        -- a withdrawal is remembered for so long
local STAGED = 60000           -- an assignment that does not go on is given up after so long
local STAGES = 8               -- so many may be under way
local HAD = '86400000'         -- the member that a name had is remembered for a day
local NEVER_USED = -4e15       -- free before all that were ever given back; those are so since their time in us from here

slot = KEYS[2] and KEYS[2]:match('%d+$')
what, me = ARGV[1], ARGV[2]
local members = KEYS[1]
local base = members:sub(1, -8)
local stages = base .. 'stages'
queue, leases, names = base .. 'queue', base .. 'leases', base .. 'wants'

local function lock_of(member) return base .. 'lock:' .. member end
local function hold_of(holder) return base .. 'hold:' .. holder end
local function number(n) return n == math.huge and '+inf' or string.format('%.0f', n) end

local function token_of(record) return tonumber(record:match('^%S+ (%d+)')) end

-- When a lock of this ttl that is taken now is free. Rounded up: it must not end at the store before it does elsewhere.
local function ends(px) return px == 0 and math.huge or ms + 1 + px end

-- Until when a member is held, by its lock; nothing if it is not.
local function held_until(member)
  local left = call('PTTL', lock_of(member))
  if left == -1 then return math.huge end
  return left >= 0 and ms + 1 + left or nil
end

-- Notes from when on a member is free, here and in every assignment under way; one that belongs to neither is not noted.
local under_way
local function note(member, free_from)
  under_way = under_way or call('ZRANGEBYSCORE', stages, ms, '+inf')
  call('ZADD', members, 'XX', number(free_from), member)
  for _, id in ipairs(under_way) do call('ZADD', base .. 'stage:' .. id, 'XX', number(free_from), member) end
end

local function note_free(member) note(member, NEVER_USED + us) end

-- A free member: the one that this name had, or the one that is free for longest.
local function pick(name)
  if name ~= '' then
    local had = call('GET', base .. 'had:' .. name)
    local free_from = had and call('ZSCORE', members, had)
    if free_from and tonumber(free_from) < ms and call('EXISTS', lock_of(had)) == 0 then return had end
  end
  for _, member in ipairs(call('ZRANGEBYSCORE', members, '-inf', '(' .. ms_text, 'LIMIT', 0, 4)) do
    local free_from = held_until(member)
    if not free_from then return member end
    note(member, free_from) -- its lock knows better
  end
end

-- How long a lease is, for the record. Of one that never ends, when its holder was last heard of.
local function lease_of(px) return px ~= 0 and number(px) or '@' .. ms_text end

local function take(member, holder, px, name, owner)
  local token, token_text = mint(base)
  local free_from = ends(px)
  local record = holder .. ' ' .. token_text .. ' ' .. ms_text .. ' ' .. lease_of(px) .. ' ' .. owner
  if px == 0 then
    call('SET', lock_of(member), record)
    call('SET', hold_of(holder), member)
  else
    call('SET', lock_of(member), record, 'PXAT', number(free_from))
    call('SET', hold_of(holder), member, 'PXAT', number(free_from))
  end
  note(member, free_from)
  if name ~= '' then call('SET', base .. 'had:' .. name, member, 'PX', HAD) end
  return { token, member }
end

-- The member that a holder has, and the record of its lock.
local function found(holder)
  local member = call('GET', hold_of(holder))
  local record = member and call('GET', lock_of(member))
  if is_of(record, holder) then return member, record end
end

-- The name whose member a waiter wants, and the owner's.
local function wanted(holder) return (call('HGET', names, holder) or '\n'):match('^(.-)\n(.*)$') end

-- Free members go to the waiters in turn: each is kept for a claim, and its waiter told to come for it. The caller, if it is
-- one that may take, takes its own when all before it that are heard of have theirs.
local function settle(caller, px, name, owner)
  local mine, told, through, more = nil, {}, {}, false
  local in_turn, holder = begin_look()
  while holder do
    local asks = holder == caller
    local its_name, its_owner = name, owner
    if not asks then its_name, its_owner = wanted(holder) end
    local member = pick(its_name or '')
    if not member then break end
    more = not asks and is_spent()
    if more then break end
    if asks then
      mine = take(member, caller, px, name, owner)
      through[#through + 1] = caller
    else
      local heard = tell(holder, 'next ' .. holder .. ' 0')
      if heard then
        take(member, holder, CLAIM, its_name or '', its_owner or '')
        told[holder:sub(1, 32)] = true
        through[#through + 1] = holder
        to_let_in = to_let_in - 1
      else
        to_look_at = to_look_at - 1
        -- Nor would any other be told.
        if heard == nil then in_turn = function() end end
      end
    end
    holder = in_turn()
  end
  if caller and not mine and not holder then
    local member = pick(name)
    mine = member and take(member, caller, px, name, owner)
    through[#through + 1] = mine and caller
  end
  end_look(holder, in_turn, told, through, more, caller and what ~= 'try' and not mine)
  return mine
end

local function begin_anew(member, holder, record, px)
  local head, lease, its_names = record:match('^(%S+ %d+ %d+ )(%S+)(.*)$')
  local now = lease_of(px)
  for _, key in ipairs({ lock_of(member), hold_of(holder) }) do
    if px == 0 then call('PERSIST', key) else call('PEXPIREAT', key, number(ends(px))) end
  end
  if head and lease ~= now then call('SET', lock_of(member), head .. now .. its_names, 'KEEPTTL') end
  note(member, ends(px))
end

-- Never sooner: an attempt that comes late must not cut what was renewed since.
local function lengthen(member, holder, record, px)
  if ends(px) > (held_until(member) or 0) then begin_anew(member, holder, record, px) end
end

-- ARGV: what, holder, ttl in ms (0: it never ends), the name whose member is wanted or '', the owner's names
local function acquire()
  local px, name, owner = tonumber(ARGV[3]), ARGV[4], ARGV[5]
  local waited_for = call('EXISTS', leases) == 1
  if waited_for then
    drop_dead()
    if call('ZSCORE', leases, 'x' .. me) then return -1 end
  end
  local member, record = found(me)
  if member then
    lengthen(member, me, record, px)
    if waited_for then settle() end
    return { token_of(record), member }
  end
  if not waited_for then
    member = pick(name)
    if member then return take(member, me, px, name, owner) end
  end
  if what ~= 'try' then enqueue(name .. '\n' .. owner) end
  local taken = waited_for and settle(me, px, name, owner)
  if taken then return taken end
  local soonest = call('ZRANGEBYSCORE', members, ms_text, '+inf', 'LIMIT', 0, 1, 'WITHSCORES')
  local left = -1
  if soonest[1] and tonumber(soonest[2]) < math.huge then
    left = tonumber(soonest[2]) - ms + 1
  end
  record = soonest[1] and call('GET', lock_of(soonest[1])) or ''
  return { record, left, rank(), ms, again }
end

-- ARGV: what, holder
local function leave()
  drop_dead()
  if what == 'withdraw' then
    call('ZREM', leases, '') -- a full server refuses what may grow to a call that has not written before
    call('ZADD', leases, number(ms + WITHDRAWN), 'x' .. me)
    call('PEXPIRE', leases, WAITING)
  end
  local member = found(me)
  if member then
    call('DEL', lock_of(member), hold_of(me))
    note_free(member)
  else
    call('DEL', hold_of(me))
    drop({ me })
  end
  if call('EXISTS', queue) == 1 then settle() end
  return member and 1 or 0
end

-- ARGV: what, and of each a holder and its ttl
local function renew()
  local answers = {}
  for i = 2, #ARGV, 2 do
    local holder, px = ARGV[i], tonumber(ARGV[i + 1])
    local member, record = found(holder)
    if member then begin_anew(member, holder, record, px) end
    answers[#answers + 1] = member and token_of(record) or 0
  end
  return answers
end

-- Adds to these the members that ARGV names from there on. Those that belong to the pool keep their time; another one may
-- have been taken out while it was held, and be held still.
local function add(to, first)
  local times, added = call('ZMSCORE', members, unpack(ARGV, first)), {}
  for i = first, #ARGV do
    added[#added + 1] = times[i - first + 1] or number(held_until(ARGV[i]) or NEVER_USED)
    added[#added + 1] = ARGV[i]
  end
  call('ZADD', to, unpack(added))
end

-- ARGV: what, and members
local function extend()
  add(members, 2)
  if call('EXISTS', queue) == 1 then settle() end
  return 1
end

-- ARGV: what, and members
local function shrink()
  call('ZREM', members, unpack(ARGV, 2))
  return 1
end

-- ARGV: what, the assignment, and members of it
local function stage()
  local stage = base .. 'stage:' .. me
  call('ZREMRANGEBYSCORE', stages, '-inf', '(' .. ms_text)
  if not call('ZSCORE', stages, me) and call('ZCARD', stages) >= STAGES then return 0 end
  call('ZADD', stages, number(ms + STAGED), me)
  call('PEXPIRE', stages, STAGED)
  add(stage, 3)
  call('PEXPIRE', stage, STAGED)
  return 1
end

-- ARGV: what, the assignment, how many members it has
local function swap()
  local stage, old = base .. 'stage:' .. me, base .. 'old'
  call('ZREM', stages, me)
  if call('ZCARD', stage) ~= tonumber(ARGV[3]) then
    call('UNLINK', stage)
    return 0
  end
  if call('EXISTS', members) == 1 then call('RENAME', members, old) end
  if call('EXISTS', stage) == 1 then
    call('RENAME', stage, members)
    call('PERSIST', members)
  end
  call('UNLINK', old) -- freed in the background, however many they were
  if call('EXISTS', queue) == 1 then settle() end
  return 1
end

-- ARGV: what, where to begin, how many
local function scan()
  local page = call('ZSCAN', members, ARGV[2], 'COUNT', ARGV[3])
  local answer = { page[1] }
  for i = 1, #page[2], 2 do answer[#answer + 1] = page[2][i] end
  return answer
end

-- ARGV: what, and members. The time, and for each whether it belongs to the pool, its record, and its ttl left.
local function inspect()
  local answer = { ms }
  for i = 2, #ARGV do
    local lock = lock_of(ARGV[i])
    answer[#answer + 1] = call('ZSCORE', members, ARGV[i]) and 1 or 0
    answer[#answer + 1] = call('GET', lock) or ''
    answer[#answer + 1] = call('PTTL', lock)
  end
  return answer
end

local function health()
  return { call('ZCARD', members), call('ZCOUNT', members, ms_text, '+inf'), call('ZCARD', queue) }
end

if what == 'try' or what == 'wait' or what == 'poll' then return acquire() end
if what == 'leave' or what == 'withdraw' then return leave() end
local steps = {
  renew = renew, extend = extend, shrink = shrink, stage = stage, swap = swap, scan = scan, inspect = inspect,
  health = health,
}
return steps[what]()
