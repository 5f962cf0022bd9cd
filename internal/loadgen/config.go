package loadgen

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"time"
)

// Config is one run. URL and Pool are needed, and Cycles or Duration.
type Config struct {
	// URL is the runner's, "http://127.0.0.1:3000".
	URL string
	// Pool is asked first, Fallbacks after it.
	Pool      string
	Fallbacks []string

	// Clients is how many stages a closed loop keeps going. Zero: 1.
	Clients int
	// Rate, if not zero, makes it an open loop: so many stages are started a
	// second, at even distances.
	Rate float64
	// InFlight bounds the stages an open loop has going at a time; a stage that
	// is due and has to wait for a place counts from when it was due. Zero:
	// 10,000.
	InFlight int
	// Cycles is how many stages are started in all, Duration for how long;
	// whichever comes first ends the run. Zero: no such bound.
	Cycles   int
	Duration time.Duration

	// Command, if not empty, is run by sh as the stage's one step.
	Command string
	// WorkingDir is where. Empty: "/tmp".
	WorkingDir string
	// Setup is the agent's part of a setup request. Nil: an empty one without
	// Docker.
	Setup json.RawMessage
	// Hold is how long a stage keeps its machine besides. Zero: not at all.
	Hold time.Duration

	// Prefix begins the ids of all stages. Empty: "load-" and random letters.
	Prefix string
	// Timeout bounds one request. Zero: 1,000 s.
	Timeout time.Duration
	// Unique checks that no machine is given to two stages at a time, at the
	// price of reading every answer.
	Unique bool

	// Progress, if set, is called every Every (zero: 1 s) from one goroutine.
	Progress func(Progress)
	Every    time.Duration
	// Transport, if set, carries the requests. Nil: one made for the purpose.
	Transport http.RoundTripper
}

// Progress is how far a run is.
type Progress struct {
	Elapsed time.Duration
	// Done stages have ended, Failed of them badly; InFlight are going.
	Done, Failed, InFlight int64
	// PerSecond is how many have ended a second since the last call.
	PerSecond float64
}

func (c Config) withDefaults() (Config, error) {
	u, err := url.Parse(c.URL)
	var problems []error
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		problems = append(problems, fmt.Errorf("runner address %q: want http://host:port", c.URL))
	}
	if c.Pool == "" {
		problems = append(problems, errors.New("no pool is named"))
	}
	if c.Cycles < 0 || c.Duration < 0 || c.Clients < 0 || c.InFlight < 0 || c.Hold < 0 {
		problems = append(problems, errors.New("cycles, duration, clients, in flight and hold must not be below zero"))
	}
	if c.Rate < 0 || math.IsNaN(c.Rate) || math.IsInf(c.Rate, 0) {
		problems = append(problems, fmt.Errorf("rate %v is no number of stages a second", c.Rate))
	}
	if c.Cycles == 0 && c.Duration == 0 {
		problems = append(problems, errors.New("neither cycles nor a duration is given: the run would never end"))
	}
	if len(c.Setup) > 0 && !json.Valid(c.Setup) {
		problems = append(problems, errors.New("the setup request is not JSON"))
	}
	// Ids are put into bodies as they are.
	if quoted, err := json.Marshal(c.Prefix); err != nil || string(quoted) != `"`+c.Prefix+`"` {
		problems = append(problems, fmt.Errorf("prefix %q has characters that JSON escapes", c.Prefix))
	}
	if err := errors.Join(problems...); err != nil {
		return c, err
	}
	c.Clients = cmp.Or(c.Clients, 1)
	c.InFlight = cmp.Or(c.InFlight, 10_000)
	c.WorkingDir = cmp.Or(c.WorkingDir, "/tmp")
	c.Timeout = cmp.Or(c.Timeout, 1000*time.Second)
	c.Every = cmp.Or(c.Every, time.Second)
	if len(c.Setup) == 0 {
		c.Setup = json.RawMessage(`{"envs":{"CI":"true"},"network":{"id":"drone"},"mount_docker_socket":false,"log_config":{},"ti_config":{}}`)
	}
	if c.Prefix == "" {
		c.Prefix = "load-" + randomWord()
	}
	if c.Transport == nil {
		most := c.Clients
		if c.Rate > 0 {
			most = c.InFlight
		}
		c.Transport = &http.Transport{
			MaxIdleConns: most, MaxIdleConnsPerHost: most, IdleConnTimeout: time.Minute,
			DisableCompression: true,
		}
	}
	return c, nil
}
