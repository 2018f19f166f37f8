-- For wrk: POST /chat with the bodies of a file in turn; what was measured as one line of JSON.
-- wrk ... -s chat.lua URL -- FILE      (one JSON body a line)
local bodies = {}
local at = 0

function init(args)
  for line in io.lines(args[1]) do
    bodies[#bodies + 1] = line
  end
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  at = at % #bodies + 1
  return wrk.format("POST", "/chat", nil, bodies[at])
end

function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  local known = {} -- every latency that there was, and how often: no quantile is lost
  for at = 1, #latency do
    local microseconds, count = latency(at)
    known[at] = string.format("[%d,%d]", microseconds, count)
  end
  io.write(string.format(
    '{"requests":%d,"microseconds":%d,"failed":%d,"latency_us":[%s]}\n',
    summary.requests, summary.duration, failed, table.concat(known, ",")
  ))
end
