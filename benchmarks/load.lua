-- Print the results as one line of JSON. With PAUSE, in milliseconds, each connection waits that long before each request,
-- and GET and POST alternate.
local pause = tonumber(os.getenv("PAUSE") or "0")

if pause > 0 then
   local post = false
   function delay()
      return pause
   end
   function request()
      post = not post
      return wrk.format(post and "POST" or "GET", nil, nil, post and "x" or nil)
   end
end

function done(summary, latency, _)
   local e = summary.errors
   io.write(string.format(
      '\n{"answered": %d, "seconds": %f, "connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d, "slowest": %f}\n',
      summary.requests, summary.duration / 1e6, e.connect, e.read, e.write, e.status, e.timeout, latency.max / 1e6))
end
