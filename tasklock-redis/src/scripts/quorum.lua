-- One node of a quorum. It has one vote for each lock, for a time; it never votes for less than it has voted for before,
-- and knows when it may have forgotten what it voted for. Any number of steps in one call.
--
-- KEYS, one a step: the vote's. The lock's other keys differ from it in their ends (see layout.rs).
-- ARGV: the longest ttl in ms, 1 if nothing is ever lost here; then seven a step:
--   what, nonce, ballot, ttl in ms, names of the owner, client that waits (or nothing), since which ballot (0: no longer)
--
-- An answer: 1, yes; 0, no; {counter, record, ttl left, ms}, no vote, since there is a record, or it is another's turn for so
-- long, or the ballot is not above the counter; {-1, '', ms to go, ms}, no vote, for this node may have forgotten some; {run, ms to go, ms} to `hello`;
-- {message}, it failed. A step alone is answered with its own, many with an array of theirs.

local BOOT = 'tasklock:1:boot'
local INBOX = 'tasklock:1:inbox:'
local BALLOTS = '2592000000' -- a counter that nobody raised for 30 days is forgotten: clocks have passed it
local WAITING = '60000'      -- who waits is forgotten so long after the last of them has asked
local TURN = '500'           -- whoever was told that it is free comes first for so long

local call = redis.call
local time = call('TIME')
local us_text = time[1] .. ('00000' .. time[2]):sub(-6)
local us, ms_text = tonumber(us_text), us_text:sub(1, -4)
local ms = tonumber(ms_text)
local longest = tonumber(ARGV[1])

-- `run longest since floor`: in which life of the server this was written, the longest ttl that anybody votes for, since
-- when it votes for nobody (0: never), and what every counter begins at. Another life, or no record, and votes may have
-- been forgotten: an owner may rely on each for the longest ttl, so there is no vote for as long.
local run = call('INFO', 'server'):match('run_id:(%x+)')
local known, known_longest, since, floor = (call('GET', BOOT) or ''):match('^(%x+) (%d+) (%d+) (%d+)$')
local is_new = not known

local function note()
  call('SET', BOOT, run .. ' ' .. string.format('%.0f', longest) .. ' ' .. since .. ' ' .. floor)
end

if is_new then
  since, floor = ms_text, us_text
  note()
else
  longest = math.max(longest, tonumber(known_longest))
  if known ~= run and ARGV[2] ~= '1' then since, floor = ms_text, us_text end
  if known ~= run or longest > tonumber(known_longest) then note() end
end

local function to_go()
  if since == '0' then return 0 end
  return math.max(tonumber(since) + longest - ms, 0)
end

local key, base, what, nonce, ballot, ttl, names, client, waits_since

local function step(i)
  key = KEYS[i]
  base = key:sub(1, -5)
  what, nonce, ballot, ttl, names, client, waits_since = unpack(ARGV, i * 7 - 4, i * 7 + 2)
end

-- The highest ballot voted for, and the highest of those that were held and have ended.
local function counters()
  local voted, ended = (call('GET', base .. 'ballots') or '0 0'):match('^(%d+) (%d+)$')
  if tonumber(voted) < tonumber(floor) then voted = floor end
  return voted, ended
end

local function higher(a, b) return tonumber(a) > tonumber(b) and a or b end

local function count(voted, ended) call('SET', base .. 'ballots', voted .. ' ' .. ended, 'PX', BALLOTS) end

local function is_mine(record) return record and record:find(nonce .. ' ' .. ballot .. ' ', 1, true) == 1 end

local function vote(voted, ended)
  call('SET', key, nonce .. ' ' .. ballot .. ' ' .. ms_text .. ' ' .. names, 'PX', ttl)
  count(higher(voted, ballot), ended)
  return 1
end

-- Never sooner: what comes late must not cut what was renewed since.
local function lengthen()
  if call('PTTL', key) < tonumber(ttl) then call('PEXPIRE', key, ttl) end
  return 1
end

local function stands(record, counter)
  return { tonumber(counter), record or '', record and call('PTTL', key) or -2, ms }
end

-- For how long it is another's turn. Without turns one that takes the lock again and again is always there before whoever
-- was told. They bind nobody but this node's vote, and only for a while.
local function turn_of_another()
  local next = call('GET', base .. 'next')
  return next and next ~= nonce and call('PTTL', base .. 'next') or 0
end

-- A vote for one who has none here yet.
local function attempt(record)
  if to_go() > 0 then return { -1, '', to_go(), ms } end
  local voted, ended = counters()
  local turn = not record and what ~= 'renew' and turn_of_another() or 0
  if not record and turn <= 0 and tonumber(ballot) > tonumber(voted) then
    call('DEL', base .. 'next')
    if what == 'poll' then call('ZREM', base .. 'waiters', client .. '.' .. nonce) end
    return vote(voted, ended)
  end
  if client ~= '' then
    call('ZADD', base .. 'waiters', waits_since, client .. '.' .. nonce)
    call('PEXPIRE', base .. 'waiters', WAITING)
  end
  local answer = stands(record, voted)
  if turn > 0 then answer[3] = turn end
  return answer
end

-- Who has waited for longest looks again, and it is its turn. It looks by itself anyway. Who may not publish tells
-- nobody.
local function tell()
  if call('GET', base .. 'next') then return end
  for _, member in ipairs(call('ZRANGE', base .. 'waiters', 0, 15)) do
    call('ZREM', base .. 'waiters', member)
    local heard = redis.pcall('PUBLISH', INBOX .. member:sub(1, 32), 'freed ' .. member)
    if heard ~= 0 then
      if type(heard) == 'number' then call('SET', base .. 'next', member:sub(34), 'PX', TURN) end
      return
    end
  end
end

-- Who waits no longer is not told, and keeps nobody from the vote.
local function stop_waiting(is_free)
  if client == '' then return end
  call('ZREM', base .. 'waiters', client .. '.' .. nonce)
  if call('GET', base .. 'next') == nonce then
    call('DEL', base .. 'next')
    if is_free then tell() end
  end
end

-- Ends this ballot of this nonce, those before it and those of them that are still to arrive. If it was held, whoever held
-- before it is not mended any more.
local function close(record, was_held)
  local voted, ended = counters()
  local of, at = (record or ''):match('^(%x+) (%d+) ')
  local is_mine = of == nonce and tonumber(at) <= tonumber(ballot)
  -- A full server refuses what may grow to a call that has not written before.
  if is_mine then call('DEL', key) else call('ZREM', base .. 'waiters', '') end
  count(higher(voted, ballot), was_held and higher(ended, ballot) or ended)
  return is_mine and 1 or 0
end

local steps = {}

function steps.try(record) return is_mine(record) and lengthen() or attempt(record) end

steps.wait, steps.poll = steps.try, steps.try

-- A node that has not heard of the acquisition is asked for its vote, as by the acquisition itself.
function steps.renew(record)
  if not is_mine(record) then return attempt(record) end
  call('PEXPIRE', key, ttl)
  return 1
end

-- For an owner whom a majority has just confirmed: whatever was voted for here meanwhile, it came to nothing.
function steps.mend(record)
  if is_mine(record) then return lengthen() end
  local voted, ended = counters()
  if record or to_go() > 0 or tonumber(ballot) <= tonumber(ended) then return 0 end
  return vote(voted, ended)
end

-- Gives back what did not become a majority. Without a ballot since which it waits, it no longer does.
function steps.drop(record)
  local closed = close(record, false)
  if waits_since == '0' then stop_waiting(not record or closed == 1) end
  return closed
end

function steps.leave(record)
  local closed = close(record, true)
  stop_waiting(false)
  if not record or closed == 1 then tell() end
  return closed
end

-- Ends the vote, whatever nonce has it or only this one.
function steps.revoke(record)
  if not record then return 0 end
  local of, at = record:match('^(%x+) (%d+) ')
  if nonce ~= '' and of ~= nonce then return 0 end
  nonce, ballot = of, at
  return steps.leave(record)
end

function steps.look(record) return stands(record, (counters())) end

function steps.hello() return { run, to_go(), ms } end

-- Nobody relies on any vote of this node: it has never given one.
function steps.found()
  if not is_new then return 0 end
  since, floor = '0', '0'
  note()
  return 1
end

local answers = {}
for i = 1, #KEYS do
  step(i)
  local done, answer = pcall(function() return steps[what](call('GET', key)) end)
  if not done then answer = { type(answer) == 'table' and answer.err or tostring(answer) } end
  answers[i] = answer
end
return #KEYS == 1 and answers[1] or answers
