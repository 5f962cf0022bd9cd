package agentapi_test

import (
	"encoding/json"
	"reflect"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

func newLike(v any) any { return reflect.New(reflect.TypeOf(v).Elem()).Interface() }

// filled returns a pointer to a value of T in which every field is set, so
// that a golden file shows every name; numbers count up, so that no two fields
// can be mixed up unnoticed.
func filled[T any]() *T {
	v := new(T)
	n := 0
	fill(reflect.ValueOf(v).Elem(), "v", &n)
	return v
}

func fill(v reflect.Value, name string, n *int) {
	if v.Type() == reflect.TypeFor[json.RawMessage]() {
		v.SetBytes([]byte("7"))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), v.Type().Field(i).Name, n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), name, n)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte(name))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), name, n)
	case reflect.Map:
		key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, name, n)
		fill(elem, name, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, elem)
	case reflect.String:
		v.SetString(name)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		*n++
		v.SetInt(int64(*n))
	case reflect.Uint32:
		*n++
		v.SetUint(uint64(*n))
	case reflect.Float64:
		*n++
		v.SetFloat(float64(*n) + 0.5)
	default:
		panic("fixture cannot fill " + v.Type().String())
	}
}

func fullSetup() *agentapi.SetupRequest {
	r := filled[agentapi.SetupRequest]()
	r.MountDockerSocket = ptr(false)
	return r
}

func fullStep() *agentapi.StartStepRequest { return filled[agentapi.StartStepRequest]() }

func fullPoll() *agentapi.PollStepResponse { return filled[agentapi.PollStepResponse]() }
