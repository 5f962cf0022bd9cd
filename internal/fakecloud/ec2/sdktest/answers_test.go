package sdktest_test

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2/model"
)

// TestTheSDKReadsAllThatTheModelKnows has the real client read an answer with
// every member of the model, and counts what arrives.
func TestTheSDKReadsAllThatTheModelKnows(t *testing.T) {
	t.Parallel()
	m := model.Get()
	for action, op := range m.Ops {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			sent := 1 // where there is nothing but success: the newer SDK reads that for some
			var full any = model.Answer{}
			if op.Output != "" {
				sent = 0
				full = filled(m, op.Output, nil, &sent)
			}
			api := ec2.New(ec2.Options{
				Region: "us-east-1", BaseEndpoint: aws.String("https://ec2.example"), RetryMaxAttempts: 1,
				Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
					return aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, nil
				}),
				HTTPClient: fakecloud.Client(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					text, err := model.Encode(action, full.(model.Answer), "id")
					if err != nil {
						t.Error(err)
					}
					_, _ = w.Write([]byte(text))
				})),
			})
			call := reflect.ValueOf(api).MethodByName(action)
			in := reflect.New(call.Type().In(1).Elem())
			fill(in.Elem(), 0)
			results := call.Call([]reflect.Value{reflect.ValueOf(t.Context()), in})
			if err, _ := results[1].Interface().(error); err != nil {
				t.Fatal(err)
			}
			if got := arrived(results[0].Elem()); got != sent && !(op.Output == "" && got == 0) {
				text, _ := json.Marshal(results[0].Interface())
				t.Errorf("%d of %d values arrived: %.2000s", got, sent, text)
			}
		})
	}
}

// filled is a value of a shape with everything in it; a shape within itself is
// left out.
func filled(m *model.Model, shape string, within []string, n *int) any {
	if slices.Contains(within, shape) {
		return nil
	}
	within = append(slices.Clone(within), shape)
	s := m.Answers[shape]
	switch s.Type {
	case "structure":
		a := model.Answer{}
		for _, member := range s.Members {
			a[member.Name] = filled(m, member.Shape, within, n)
		}
		return a
	case "list":
		switch v := filled(m, s.Of, within, n).(type) {
		case model.Answer:
			return []model.Answer{v}
		case string:
			return []string{v}
		case int:
			return []int{v}
		default:
			return nil
		}
	}
	*n++
	switch s.Type {
	case "string":
		return "x"
	case "boolean":
		return true
	case "integer", "long":
		return 1
	case "double", "float":
		return 1.5
	case "timestamp":
		return time.Unix(1e9, 0)
	case "blob":
		return []byte("x")
	}
	panic("shape " + shape + " of type " + s.Type)
}

// fill sets what a client checks before it sends.
func fill(v reflect.Value, depth int) {
	if depth > 6 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() && v.Type().Field(i).IsExported() {
				fill(v.Field(i), depth+1)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth+1)
	case reflect.String:
		v.SetString("x")
	}
}

// arrived counts the scalars of an output that are set.
func arrived(v reflect.Value) (n int) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return 0
		}
		return arrived(v.Elem())
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return 1
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Name != "ResultMetadata" {
				n += arrived(v.Field(i))
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return min(1, v.Len())
		}
		for i := range v.Len() {
			n += arrived(v.Index(i))
		}
	case reflect.String:
		return min(1, v.Len())
	default:
		return 1
	}
	return n
}
