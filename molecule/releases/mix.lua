-- Send GET and POST alternately, with a pause before each request of a connection: PAUSE, in milliseconds. Print one line of JSON at the end: responses, errors, the slowest response in seconds.
local post = false
local pause = tonumber(os.getenv("PAUSE"))

if pause > 0 then
   function delay()
      return pause
   end
end

function request()
   post = not post
   return wrk.format(post and "POST" or "GET", "/", nil, post and "x" or nil)
end

function done(summary, latency, _)
   local e = summary.errors
   io.write(string.format(
      '\n{"answered": %d, "connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d, "slowest": %f}\n',
      summary.requests, e.connect, e.read, e.write, e.status, e.timeout, latency.max / 1e6))
end
