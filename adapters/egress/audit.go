package egress

import (
	"encoding/json"
	"io"
	"net/netip"
	"sync"
	"time"
)

// RecordVersion is the version of the audit's lines. It changes when a field changes its
// meaning or goes away.
const RecordVersion = 1

// Verdict is the kind of a [Record].
type Verdict string

// The verdicts. A request has an Allowed record before the proxy connects to its
// destination, so that it is on record even if the proxy is killed. When it is over it has
// Denied, Failed or Ended with the same Flow. A request that is refused, or whose host
// cannot be resolved, has only Denied or Failed. Lost belongs to no request.
const (
	Allowed Verdict = "allowed" // a connection to the destination is about to be made
	Denied  Verdict = "denied"  // refused by policy; after Allowed: because of its ClientHello
	Failed  Verdict = "failed"  // a rule allows it, but the host was not resolved or reached
	Ended   Verdict = "ended"   // over, for the given reason, with the bytes it moved
	Lost    Verdict = "lost"    // as many records as Lost says could not be written before this one
)

// Record is one line of the audit. Fields that do not apply are left out.
type Record struct {
	Version  int        `json:"version"` // RecordVersion
	Time     time.Time  `json:"time"`    // UTC
	Verdict  Verdict    `json:"verdict"`
	Flow     uint64     `json:"flow,omitempty"` // joins the records of one request; unique in this process
	Run      string     `json:"run,omitempty"`  // empty where the client is unknown
	Rule     string     `json:"rule,omitempty"` // the canonical text of the rule that allows it
	Method   string     `json:"method,omitempty"`
	Host     string     `json:"host,omitempty"` // as the client wrote it where it is malformed
	Port     uint16     `json:"port,omitempty"`
	Address  netip.Addr `json:"address,omitzero"`   // the address that the connection is pinned to
	Sent     int64      `json:"sent,omitempty"`     // bytes from the client: of a tunnel, or of a request's body
	Received int64      `json:"received,omitempty"` // bytes to the client, likewise
	Reason   string     `json:"reason,omitempty"`
	Lost     int64      `json:"lost,omitempty"`
}

// auditor writes records. It is safe for concurrent use.
type auditor struct {
	writer io.Writer
	now    func() time.Time

	mu   sync.Mutex
	lost int64
	torn bool // the last write failed, and may have left a part of a line
}

// write appends a record. Where that fails, the loss is recorded before the next record.
func (a *auditor) write(r Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lost > 0 && !a.line(Record{Verdict: Lost, Lost: a.lost}) || !a.line(r) {
		a.lost++
	} else {
		a.lost = 0
	}
}

// line reports whether the whole line was written.
func (a *auditor) line(r Record) bool {
	r.Version, r.Time = RecordVersion, a.now().UTC()
	r.Method, r.Host, r.Reason = shorten(r.Method, 32), shorten(r.Host, 253), shorten(r.Reason, 500)
	line, err := json.Marshal(r)
	if err != nil {
		return false
	}
	if a.torn {
		line = append([]byte("\n"), line...)
	}
	_, err = a.writer.Write(append(line, '\n'))
	a.torn = err != nil
	return err == nil
}

// shorten keeps a client from filling the audit with a few requests.
func shorten(text string, limit int) string {
	if len(text) > limit {
		return text[:limit] + "…"
	}
	return text
}
