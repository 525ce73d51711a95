package bundle

import "time"

// A helper that hangs answers nothing, and nothing else shows that it hangs. So each request has a
// limit: what its steps may wait for, and a margin for the work itself.
const (
	// UndoLimit bounds the time in which a helper undoes everything that it did.
	UndoLimit = time.Minute
	// TracerLimit is how much longer it may take while calls are recorded: to end that, the kernel
	// changes the code of every function, which takes an emulated machine minutes.
	TracerLimit = 4 * time.Minute
	// EndLimit is how long a helper may take to end, from the end of its input on. One that still
	// runs then is killed.
	EndLimit = UndoLimit + 15*time.Second
	// BeatEvery is how often a helper at work on a request says that it lives, by an empty line, if
	// Hello requests that; SilenceLimit is how long it may say nothing then. The limit of a request is
	// for a step that hangs, this one for a helper that is stopped, or a way to it that is cut.
	BeatEvery    = 5 * time.Second
	SilenceLimit = 45 * time.Second
	// margin is for the work itself, on an emulated machine of a busy computer.
	margin = time.Minute
	// usual is what one step may take that waits for nothing.
	usual = 2 * time.Second
	// mostLimit is longer than any experiment.
	mostLimit = 30 * 24 * time.Hour
)

// The longest that steps wait, by the limits of their handlers.
const (
	ruleLimit    = 3 * time.Minute  // a tool that loads rules, and the reading of their memory
	loadLimit    = 3 * time.Minute  // the verifier, or a million entries
	serveLimit   = time.Minute      // for a server to listen
	scriptLimit  = 2 * time.Minute  // a Program without a Timeout
	probeLimit   = 2 * time.Minute  // answers, and silence several times as long as the slowest
	requestLimit = 30 * time.Second // an answer to a request
	endingLimit  = 20 * time.Second // for a program to end that was killed
	sendLimit    = 30 * time.Second // Generate
	countLimit   = 10 * time.Minute // test runs
	readLimit    = 2 * time.Minute  // a tool that lists rules, or a recording
)

// Limit is how long the helper may take to answer a request: at least a minute.
func (r Request) Limit() time.Duration {
	switch {
	case r.Exec != nil:
		return min(margin+limitOf(r.Exec.Steps), mostLimit)
	case r.UndoTo != nil:
		return margin + UndoLimit
	case r.Facts:
		return margin + readLimit // each of some tools is started
	}
	return margin
}

func limitOf(steps []Step) time.Duration {
	var total time.Duration
	for _, s := range steps {
		total = min(total+usual+s.waits(), mostLimit)
	}
	return total
}

// waits is for how long a step may wait for others.
func (s Step) waits() time.Duration {
	switch do := s.Do.(type) {
	case Exec:
		return inSeconds(do.Timeout) + endingLimit
	case Parallel:
		return do.waits()
	case Probes:
		return probeLimit + inSeconds(do.Timeout)
	case Refusals:
		return probeLimit + inSeconds(float64(do.Times)*do.Timeout)
	case Requests:
		return time.Duration(len(do.Tries))*requestLimit + inSeconds(float64(len(do.Tries))*do.Timeout)
	case Flow:
		return inSeconds(do.Timeout)
	case OverlayNetns:
		return inSeconds(do.Timeout)
	case Tool:
		return do.Do.waits()
	case Read:
		if do.From.Script != nil {
			return do.From.Script.waits()
		}
		return readLimit
	case Rules:
		return ruleLimit
	case LoadBPF, FillMap, AdoptBPF:
		return loadLimit
	case Daemon:
		return max(serveLimit, inSeconds(do.Timeout))
	case Start:
		return serveLimit
	case Generate:
		return sendLimit
	case TestRuns, CountRuns:
		return countLimit
	case CiliumReady:
		return inSeconds(do.Timeout)
	case CiliumEndpoint:
		return inSeconds(do.Timeout)
	case CiliumPolicies:
		return inSeconds(do.Timeout)
	case RecordCalls, EndRecord:
		return readLimit + TracerLimit
	case RecordDrops, CountInstructions:
		return readLimit
	case Stop:
		return endingLimit
	}
	return 0
}

// waits is that of the step which waits longest: they are executed at once.
func (p Parallel) waits() time.Duration {
	var longest time.Duration
	for _, s := range p.Steps {
		longest = max(longest, s.waits())
	}
	return longest + time.Duration(len(p.Steps))*usual
}

func (p Program) waits() time.Duration {
	if p.Timeout > 0 {
		return inSeconds(p.Timeout) + endingLimit
	}
	return scriptLimit + endingLimit
}

// inSeconds is a time of 0 to mostLimit.
func inSeconds(s float64) time.Duration {
	return time.Duration(max(0, min(s, mostLimit.Seconds())) * float64(time.Second))
}
