package manifest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// conform holds a value against the Go type that it is to become, and names every unknown field and every value of a wrong
// type. A decoder would stop at the first, without its place.
func (d *document) conform(value any, t reflect.Type, field string) {
	if value == nil {
		return
	}
	if t.Kind() == reflect.Pointer {
		d.conform(value, t.Elem(), field)
		return
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		d.decodes(value, t, field)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		d.conformStruct(value, t, field)
	case reflect.Map:
		m, ok := value.(map[string]any)
		if !ok {
			d.problem(d.at(field), field, "want a mapping")
			return
		}
		for _, k := range sortedKeys(m) {
			d.conformEntry(m[k], t.Elem(), field, k)
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			d.decodes(value, t, field)
			return
		}
		list, ok := value.([]any)
		if !ok {
			d.problem(d.at(field), field, "want a list")
			return
		}
		for i, item := range list {
			d.conform(item, t.Elem(), fmt.Sprintf("%s[%d]", field, i))
		}
	default:
		d.decodes(value, t, field)
	}
}

// conformEntry is conform for an entry of a free-form mapping, whose keys are the author's.
func (d *document) conformEntry(value any, t reflect.Type, field, key string) {
	before := len(d.problems)
	d.conform(value, t, join(field, key))
	if value == nil && t.Kind() == reflect.String {
		d.problem(d.at(join(field, key)), join(field, key), `is empty; write "" for empty text`)
	}
	if d.quiet {
		for i := range d.problems[before:] {
			d.problems[before+i].field = field
		}
	}
}

func (d *document) conformStruct(value any, t reflect.Type, field string) {
	m, ok := value.(map[string]any)
	if !ok {
		d.problem(d.at(field), field, "want a mapping")
		return
	}
	known := map[string]reflect.Type{}
	collect(t, known)
	for _, k := range sortedKeys(m) {
		ft, ok := known[k]
		if !ok {
			d.problem(d.at(join(field, k)), d.below(field, k), "unknown field")
			continue
		}
		d.conform(m[k], ft, join(field, k))
	}
}

// collect finds the fields of a struct by their JSON names.
func collect(t reflect.Type, into map[string]reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case name == "" && (f.Anonymous || strings.Contains(opts, "inline")):
			ft := f.Type
			if ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			collect(ft, into)
		case name == "":
			into[f.Name] = f.Type
		default:
			into[name] = f.Type
		}
	}
}

// decodes checks a value whose type has its own way of being read.
func (d *document) decodes(value any, t reflect.Type, field string) {
	raw, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(raw, reflect.New(t).Interface())
	}
	if err == nil {
		return
	}
	want := describe(t)
	if d.quiet {
		d.problem(d.at(field), field, "want %s", want)
		return
	}
	d.problem(d.at(field), field, "want %s, got %s", want, shorten(string(raw)))
}

func describe(t reflect.Type) string {
	switch {
	case t.Name() == "Quantity":
		return `a quantity such as "500m" or "1Gi"`
	case t.Name() == "Time" || t.Name() == "MicroTime":
		return "a time such as 2026-01-02T15:04:05Z"
	case t.Name() == "IntOrString":
		return "a whole number or text"
	case t.Kind() == reflect.Slice:
		return "base64 text"
	case t.Kind() == reflect.String:
		return "text (put it in quotes)"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return "a whole number"
	}
	return "a " + strings.ToLower(t.Name())
}

func shorten(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "..."
	}
	return s
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
