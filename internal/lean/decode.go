package lean

import (
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"strconv"
)

// maxDepth is how deep values may be nested.
const maxDepth = 200

// ErrSyntax is text that is no JSON.
var ErrSyntax = errors.New("malformed JSON")

// unmarshaler and marshaler are encoding/json's, which is not imported.
type (
	unmarshaler interface{ UnmarshalJSON([]byte) error }
	marshaler   interface{ MarshalJSON() ([]byte, error) }
)

// Unmarshal reads JSON into what v points to, as encoding/json does, with the
// limits of the package comment.
func Unmarshal(data []byte, v any) error {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() {
		return fmt.Errorf("decode into %T: a pointer is due", v)
	}
	d := decoder{data: data}
	if err := d.value(p.Elem(), 0); err != nil {
		return err
	}
	d.space()
	if d.at < len(d.data) {
		return d.syntax("the end")
	}
	return nil
}

type decoder struct {
	data []byte
	at   int
}

func (d *decoder) syntax(due string) error {
	return fmt.Errorf("%w at byte %d: %s is due", ErrSyntax, d.at, due)
}

func (d *decoder) space() {
	for d.at < len(d.data) {
		switch d.data[d.at] {
		case ' ', '\t', '\n', '\r':
			d.at++
		default:
			return
		}
	}
}

// peek is the next byte that is no space, 0 at the end.
func (d *decoder) peek() byte {
	d.space()
	if d.at < len(d.data) {
		return d.data[d.at]
	}
	return 0
}

// eat takes c if it comes next.
func (d *decoder) eat(c byte) bool {
	if d.peek() != c {
		return false
	}
	d.at++
	return true
}

func (d *decoder) word(w string) bool {
	if len(d.data)-d.at >= len(w) && string(d.data[d.at:d.at+len(w)]) == w {
		d.at += len(w)
		return true
	}
	return false
}

// value decodes the next value into v.
func (d *decoder) value(v reflect.Value, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: nested too deep", ErrSyntax)
	}
	c := d.peek()
	if c == 'n' {
		if !d.word("null") {
			return d.syntax("null")
		}
		switch v.Kind() {
		case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Interface:
			v.SetZero()
		}
		return nil
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return d.value(v.Elem(), depth)
	}
	if v.Kind() == reflect.Struct || v.Kind() == reflect.Slice { // the only kinds here that have it
		if u, ok := v.Addr().Interface().(unmarshaler); ok {
			from := d.at
			if err := d.skip(depth); err != nil {
				return err
			}
			return u.UnmarshalJSON(d.data[from:d.at])
		}
	}
	switch c {
	case '{':
		return d.object(v, depth)
	case '[':
		return d.array(v, depth)
	case '"':
		return d.text(v)
	case 't', 'f':
		return d.boolean(v)
	}
	return d.number(v)
}

func mismatch(what string, v reflect.Value) error {
	return fmt.Errorf("JSON %s for a %s", what, v.Type())
}

func (d *decoder) object(v reflect.Value, depth int) error {
	switch {
	case v.Kind() == reflect.Struct:
	case v.Kind() == reflect.Map && v.Type().Key().Kind() == reflect.String:
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
	default:
		return mismatch("object", v)
	}
	d.at++
	if d.eat('}') {
		return nil
	}
	next := 0 // our own encoders write fields in their order
	for {
		if d.peek() != '"' {
			return d.syntax("a key")
		}
		key, err := d.str()
		if err != nil {
			return err
		}
		if !d.eat(':') {
			return d.syntax("a colon")
		}
		if err := d.member(v, key, &next, depth); err != nil {
			return err
		}
		if d.eat('}') {
			return nil
		}
		if !d.eat(',') {
			return d.syntax("a comma")
		}
	}
}

// member decodes the value of one key of a struct or map.
func (d *decoder) member(v reflect.Value, key []byte, next *int, depth int) error {
	if v.Kind() == reflect.Map {
		name, elem := string(key), reflect.New(v.Type().Elem()).Elem()
		if err := d.value(elem, depth+1); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		v.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), elem)
		return nil
	}
	f := field(v, key, next)
	if !f.IsValid() {
		return d.skip(depth + 1)
	}
	if err := d.value(f, depth+1); err != nil {
		return fmt.Errorf("%s: %w", tagOf(v.Type(), *next-1), err)
	}
	return nil
}

// field finds a struct's field by its name in JSON, the one after the last
// first; embedded structs after all others.
func field(v reflect.Value, key []byte, next *int) reflect.Value {
	t := v.Type()
	n := t.NumField()
	for i := range n {
		at := (*next + i) % n
		if name := tagOf(t, at); name == string(key) && name != "" {
			*next = at + 1
			return v.Field(at)
		}
	}
	for i := range n {
		if f := t.Field(i); f.Anonymous && f.Type.Kind() == reflect.Struct && f.IsExported() {
			inner := 0
			if x := field(v.Field(i), key, &inner); x.IsValid() {
				*next = i + 1
				return x
			}
		}
	}
	return reflect.Value{}
}

// tagOf is a field's name in JSON, "" when it has none.
func tagOf(t reflect.Type, i int) string {
	name, _ := tag(t.Field(i))
	return name
}

func (d *decoder) array(v reflect.Value, depth int) error {
	n := 0
	switch v.Kind() {
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 0, 0)) // an empty one is not nil
	case reflect.Array:
	default:
		return mismatch("array", v)
	}
	d.at++
	if d.eat(']') {
		return nil
	}
	for {
		if v.Kind() == reflect.Slice {
			if n == v.Cap() {
				v.Grow(max(n, 4))
			}
			v.SetLen(n + 1)
			v.Index(n).SetZero()
		}
		var err error
		if n < v.Len() {
			err = d.value(v.Index(n), depth+1)
		} else {
			err = d.skip(depth + 1) // more than the array holds
		}
		if err != nil {
			return err
		}
		n++
		if d.eat(']') {
			return nil
		}
		if !d.eat(',') {
			return d.syntax("a comma")
		}
	}
}

// text decodes a string into a string or, by base64, into bytes.
func (d *decoder) text(v reflect.Value) error {
	s, err := d.str()
	if err != nil {
		return err
	}
	switch {
	case v.Kind() == reflect.String:
		v.SetString(string(s))
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
		b := make([]byte, base64.StdEncoding.DecodedLen(len(s)))
		n, err := base64.StdEncoding.Decode(b, s)
		if err != nil {
			return err
		}
		v.SetBytes(b[:n])
	default:
		return mismatch("string", v)
	}
	return nil
}

func (d *decoder) boolean(v reflect.Value) error {
	b := d.word("true")
	if !b && !d.word("false") {
		return d.syntax("true or false")
	}
	if v.Kind() != reflect.Bool {
		return mismatch("boolean", v)
	}
	v.SetBool(b)
	return nil
}

func (d *decoder) number(v reflect.Value) error {
	from := d.at
	if err := d.digits(); err != nil {
		return err
	}
	s := string(d.data[from:d.at])
	switch {
	case v.CanInt():
		n, err := strconv.ParseInt(s, 10, v.Type().Bits())
		v.SetInt(n)
		return err
	case v.CanUint():
		n, err := strconv.ParseUint(s, 10, v.Type().Bits())
		v.SetUint(n)
		return err
	case v.CanFloat():
		n, err := strconv.ParseFloat(s, v.Type().Bits())
		v.SetFloat(n)
		return err
	}
	return mismatch("number", v)
}
