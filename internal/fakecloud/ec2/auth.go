package ec2

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Key is what a caller may have.
type Key struct {
	// ID is the access key's id, Token the session token, "" for none.
	ID, Token string
	// Until is when the token ends, zero for never.
	Until time.Time
	// May says which operations are allowed; nil allows all. CreateTags is asked
	// also for tags given at creation.
	May func(action string) bool
}

// maxSkew is how far a request's date may be from the cloud's.
const maxSkew = 15 * time.Minute

var (
	signatureRE = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/, ]+)/(\d{8})/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})$`)
	dateForm    = "20060102T150405Z"
)

// authenticate looks at a request's signature: its shape, date and scope, and
// whose it is. It does not reckon it.
func (c *Cloud) authenticate(r *http.Request, service string, now time.Time) (Key, *Error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return Key{}, refuse("MissingAuthenticationToken", "Request is missing Authentication Token")
	}
	m := signatureRE.FindStringSubmatch(header)
	if m == nil {
		return Key{}, refuse("IncompleteSignature", "The request signature does not conform to AWS standards.")
	}
	date, err := time.Parse(dateForm, r.Header.Get("X-Amz-Date"))
	switch signed := strings.Split(m[5], ";"); {
	case err != nil || date.Format("20060102") != m[2]:
		return Key{}, refuse("IncompleteSignature", "Date in Credential scope does not match the header X-Amz-Date.")
	case m[3] != c.o.Region:
		return Key{}, refuse("SignatureDoesNotMatch", "Credential should be scoped to a valid region, not '%s'.", m[3])
	case m[4] != service:
		return Key{}, refuse("SignatureDoesNotMatch", "Credential should be scoped to correct service: '%s'.", service)
	case !slices.Contains(signed, "host") || !slices.Contains(signed, "x-amz-date"),
		r.Header.Get("X-Amz-Security-Token") != "" && !slices.Contains(signed, "x-amz-security-token"):
		return Key{}, refuse("SignatureDoesNotMatch", "The headers host, x-amz-date and x-amz-security-token must be signed.")
	case now.Sub(date).Abs() > maxSkew:
		return Key{}, ErrExpired()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.o.Keys) == 0 {
		return Key{}, nil
	}
	i := slices.IndexFunc(c.o.Keys, func(k Key) bool { return k.ID == m[1] && k.Token == r.Header.Get("X-Amz-Security-Token") })
	if i < 0 {
		return Key{}, ErrAuth()
	}
	if k := c.o.Keys[i]; k.Until.IsZero() || now.Before(k.Until) {
		return k, nil
	}
	return Key{}, ErrExpired()
}

func (k Key) may(action string) bool { return k.May == nil || k.May(action) }
