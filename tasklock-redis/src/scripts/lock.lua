
-- Any number of steps in one call: the call itself costs more than what is done in it.
--
-- KEYS, one a step: the owner's. The other keys of a lock differ from it in their ends (see layout.rs), and share its
-- slot: handing them all over would take longer than most steps do. In a cluster they follow those of all steps, to be
-- looked for by the server.
-- ARGV, four a step: what, member, ttl in ms (0: it never ends), names of the owner, or of a renewal, how many more
-- tokens it wants; in a cluster, once, what is in the braces of the inboxes of this slot
--
-- What is asked for in another mode than alone says so after a space: `shared`, or `of3` for one of three permits.
--
-- An answer: 0, no; 1, yes, or the token; -1, withdrawn; {token, first of more, number of waiters}; {record, ttl left,
-- rank or number of waiters, ms, ...}, how the lock stands, and at its end, if it is sooner than otherwise, in how many ms to
-- look again; {message}, it failed. A step alone is answered with its own, many with an array of theirs.
--
-- Steps on different locks were begun at the same time, so their order is free: those that find nobody waiting come
-- first. Those on one lock keep theirs. A step that fails does not keep the others from being done.

local function take(base, member, px, name)
  local token, token_text = mint(base)
  local record = member .. ' ' .. token_text .. ' ' .. ms_text .. ' '
  if px ~= '0' then
    record = record .. px .. ' ' .. name
    call('SET', base .. 'owner', record, 'PX', px)
  else
    record = record .. '@' .. ms_text .. ' ' .. name
    call('SET', base .. 'owner', record)
  end
  return token, token_text, record
end

-- So many more tokens for who has the lock, above every one before and above the clock; the first of them.
local function reserve(base, count)
  if not us then look_at_clock() end
  local first = math.max(us, (tonumber(call('GET', base .. 'fence') or 0) or 0) + 1)
  call('SET', base .. 'fence', string.format('%.0f', first + count - 1), 'PX', FENCE)
  return first
end

-- What a renewal is answered with, if the caller wants so many more tokens.
local function with_more(base, token, more)
  more = tonumber(more)
  if not more then return token end
  return { token, reserve(base, more), call('ZCARD', base .. 'queue') }
end

-- Where nobody waits and nothing was withdrawn there are no leases, and nobody to settle with. No answer here where
-- several hold, or want to.
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
      if is_of(record, me) then
        call('DEL', owner)
        return 1
      end
      if record ~= 'shared' and record ~= 'permits' then return 0 end
    end
  elseif what == 'renew' then
    local record, px = call('GET', owner), ARGV[i * 4 - 1]
    if is_of(record, me) then
      local token, lease = record:match('^%S+ (%d+) %d+ (%S+)')
      if lease ~= px then return end -- to be written down
      call('PEXPIRE', owner, px)
      return with_more(base, tonumber(token), ARGV[i * 4])
    end
    if record ~= 'shared' and record ~= 'permits' then return 0 end
  elseif what == 'inspect' then
    local record = call('GET', owner) or ''
    if record ~= 'shared' and record ~= 'permits' then
      if not us then look_at_clock() end
      return { record, call('PTTL', owner), call('ZCARD', base .. 'queue'), ms }
    end
  end
end

-- Most steps are alone and find nobody waiting. They end here, and what is made below costs them nothing.
local steps = math.floor(#ARGV / 4)
if steps == 1 then
  local answer = fast(1)
  if answer then return answer end
end
