
-- Who holds: from here on steps are looked at one by one.

if not us then look_at_clock() end

local LONG = 600000 -- of what was to last longer than that no more is kept than has to be

-- The rest of the step under way.
local base, owner, holders, records
local mode, ttl, my_name
-- How its lock is held: `record` is the owner's, if one holds it alone; if several do, how: `shared` or `permits`, which is
-- in `crowd` too, and `count` of them do.
local record, crowd, count
-- Until when what several have lasts at the server, if that is known.
local lasts

local function step(i)
  owner, what, mode, me, ttl, my_name = KEYS[i], ARGV[i * 4 - 3], nil, ARGV[i * 4 - 2], ARGV[i * 4 - 1], ARGV[i * 4]
  if what:find(' ', 1, true) then what, mode = what:match('^(%a+) (.+)$') end
  base = owner:sub(1, -6)
  queue, leases, names = base .. 'queue', base .. 'leases', base .. 'names'
  holders, records = base .. 'holders', base .. 'records'
end

-- Whether several hold it: then the record tells no more than how.
local function is_crowd(record) return record == 'shared' or record == 'permits' end

-- How long a lease is, for the record. Of one that never ends, when its holder was last heard of.
local function lease_of(px) return px ~= '0' and px or '@' .. ms_text end

local function write(key, text, px)
  if px ~= '0' then call('SET', key, text, 'PX', px) else call('SET', key, text) end
end

-- Begins the lease of a record anew, and gives its token. Only a lease of another length has to be written down, and then
-- behind something else: a full server refuses what may grow to a call that has not written before.
local function begin_anew(px)
  local head, token, lease, its_names = record:match('^(%S+ (%d+) %d+ )(%S+)(.*)$')
  if px ~= '0' then call('PEXPIRE', owner, px) else call('PERSIST', owner) end
  if lease ~= px then write(owner, head .. lease_of(px) .. its_names, px) end
  return tonumber(token)
end

-- Takes one out of several; whether it was there.
local function remove(member)
  if call('ZREM', holders, member) == 0 then return false end
  call('HDEL', records, member)
  count = count - 1
  return true
end

-- Freed in the background, however many they were.
local function forget_all()
  call('UNLINK', owner, holders, records)
  record, crowd, count = false, nil, 0
end

-- What several have lasts at the server as long as the last of them, and longer: whoever comes later would else have to
-- lengthen it each time. Each of several ends by itself, whether or not it is still there.
local function last_until(ends)
  if ends == 'inf' then
    lasts = math.huge
    call('SET', owner, crowd)
    for _, key in ipairs({ holders, records }) do call('PERSIST', key) end
  else
    local left = tonumber(ends) - ms
    left = left + math.floor(left / 8)
    lasts = ms + left
    call('SET', owner, crowd, 'PX', left)
    for _, key in ipairs({ holders, records }) do call('PEXPIRE', key, left) end
  end
end

-- At least until this one ends.
local function outlast(ends)
  if not lasts then
    local left = call('PTTL', owner)
    lasts = left == -1 and math.huge or ms + left
  end
  if lasts < (tonumber(ends) or math.huge) then last_until(ends) end
end

-- No longer than it has to, after some were taken out.
local function shorten()
  local last = call('ZRANGE', holders, -1, -1, 'WITHSCORES')[2]
  if not last or last ~= 'inf' and tonumber(last) <= ms then forget_all() else last_until(last) end
end

-- How the lock is held now.
local function look()
  record, crowd, count, lasts = call('GET', owner), nil, 0, nil
  if not is_crowd(record) then return end
  crowd = record
  count = call('ZCOUNT', holders, '(' .. ms_text, '+inf')
  if count == 0 then forget_all() end
end

-- Takes out some that are over: more than come, so that they do not grow.
local function clear_away()
  local over = call('ZRANGEBYSCORE', holders, '-inf', ms_text, 'LIMIT', 0, 64)
  if #over > 0 then
    call('ZREM', holders, unpack(over))
    call('HDEL', records, unpack(over))
  end
end

-- Those of several that hold it, the first to end before the others.
local function living(...) return call('ZRANGEBYSCORE', holders, '(' .. ms_text, '+inf', 'WITHSCORES', ...) end

-- When one of several ends, if it holds.
local function end_among(member)
  local ends = crowd and call('ZSCORE', holders, member)
  return ends and tonumber(ends) > ms and ends
end

-- Whether one more may hold it beside those who do. How many permits there are, each says for itself.
local function admits(how)
  if not record then return true end
  if not (crowd and how) then return false end
  if how == 'shared' then return crowd == 'shared' end
  return crowd == 'permits' and count < tonumber(how:sub(3))
end

local function end_of(px) return px == '0' and 'inf' or ms + px end

-- Lets one in that may hold it; its token.
local function admit(member, how, px, name)
  local token, token_text
  if not how then
    token, token_text, record = take(base, member, px, name)
    return token, token_text
  end
  token, token_text = mint(base)
  if crowd then
    clear_away()
  else
    call('UNLINK', holders, records)
    crowd, count, lasts = how == 'shared' and how or 'permits', 0, 0
    record = crowd
  end
  local ends = end_of(px)
  call('ZADD', holders, ends, member)
  call('HSET', records, member, token_text .. ' ' .. ms_text .. ' ' .. lease_of(px) .. ' ' .. name)
  count = count + 1
  outlast(ends)
  return token, token_text
end

-- Ends what the caller holds; whether it held.
local function let_go()
  if is_of(record, me) then
    call('DEL', owner)
    record = false
    return true
  end
  local ends = end_among(me)
  if not ends then return false end
  if count == 1 then
    forget_all()
  else
    remove(me)
    if (tonumber(ends) or math.huge) > ms + LONG then shorten() end
  end
  return true
end

-- Begins the caller's lease anew, if it holds: its token. Whoever asks again never makes it shorter: an attempt that
-- comes late must not cut what was renewed since.
local function lengthen()
  if is_of(record, me) then
    local left = ttl ~= '0' and call('PTTL', owner)
    if left and (left < 0 or left >= tonumber(ttl)) then return tonumber(record:match(' (%d+)')) end
    return begin_anew(ttl)
  end
  local ends = end_among(me)
  if not ends then return end
  local part = call('HGET', records, me)
  if what == 'renew' or ttl == '0' or ends ~= 'inf' and tonumber(ends) < ms + ttl then
    local head, lease, its_names = part:match('^(%d+ %d+ )(%S+)(.*)$')
    call('ZREM', holders, '') -- writes, as above
    call('ZADD', holders, end_of(ttl), me)
    if lease ~= ttl then call('HSET', records, me, head .. lease_of(ttl) .. its_names) end
    if ttl ~= '0' and (tonumber(ends) or math.huge) > ms + LONG then shorten() else outlast(end_of(ttl)) end
  end
  return tonumber(part:match('^%d+'))
end

local function renew()
  look()
  if is_of(record, me) then return begin_anew(ttl) end
  return lengthen() or 0
end

-- One of several, as a record and the time it has left.
local function shown(member, ends)
  return member .. ' ' .. call('HGET', records, member), ends == 'inf' and -1 or tonumber(ends) - ms
end
