package ec2

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
)

// SSM is the one operation of Systems Manager that finds images: GetParameter,
// of [Options.Parameters]. It has the cloud's keys, faults and books.
func (c *Cloud) SSM() http.Handler { return http.HandlerFunc(c.serveSSM) }

const jsonType = "application/x-amz-json-1.1"

func (c *Cloud) serveSSM(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Amzn-Requestid", c.requestID())
	w.Header().Set("Content-Type", jsonType)
	got, err := c.getParameter(r)
	if err != nil {
		e := refusal(err)
		w.WriteHeader(e.Status)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": e.Code, "message": e.Message})
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"Parameter": got})
}

func (c *Cloud) getParameter(r *http.Request) (map[string]any, error) {
	target := r.Header.Get("X-Amz-Target")
	action, ok := strings.CutPrefix(target, "AmazonSSM.")
	switch {
	case r.Method != http.MethodPost || r.URL.Path != "/" && r.URL.Path != "":
		return nil, refuse("InvalidAction", "%s %s", r.Method, r.URL)
	case r.Header.Get("Content-Type") != jsonType:
		return nil, refuse("SerializationException", "Content-Type %q", r.Header.Get("Content-Type"))
	case !ok || action != "GetParameter":
		return nil, refuse("UnknownOperationException", "this fake does not model %q", target)
	}
	now := c.o.Now()
	c.Books.Called("ssm:" + action)
	var in struct {
		Name           *string
		WithDecryption bool
	}
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxForm))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, refuse("SerializationException", "%v", err)
	}
	key, refused := c.authenticate(r, "ssm", now)
	switch {
	case refused != nil:
		return nil, refused
	case !key.may("ssm:" + action):
		return nil, refuse("AccessDeniedException", "User is not authorized to perform: ssm:%s", action)
	case !c.bucket("call", "ssm:"+action, map[string]Rate{"": {40, 40}}, c.o.Rates).Take(1, now):
		return nil, refuse("ThrottlingException", "Rate exceeded")
	case in.Name == nil || *in.Name == "" || len(*in.Name) > 2048:
		return nil, refuse("ValidationException", "1 validation error detected: Value at 'name' failed to satisfy constraint")
	}
	var got map[string]any
	err := c.Faults.Around(r.Context(), fakecloud.Call{Method: "ssm:" + action, Name: *in.Name, At: now}, func() error {
		value, ok := c.o.Parameters[*in.Name]
		if !ok {
			return refuse("ParameterNotFound", "")
		}
		got = map[string]any{
			"ARN": "arn:aws:ssm:" + c.o.Region + "::parameter" + *in.Name, "DataType": "text", "LastModifiedDate": 915148800.5,
			"Name": *in.Name, "Type": "String", "Value": value, "Version": 1,
		}
		return nil
	})
	if err == nil && got == nil {
		err = ErrInternal()
	}
	return got, err
}
