package prepare

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
)

// emitter writes a filter from its end to its start, because jumps only go
// forward: what is jumped to is there already. A label is a position counted
// from the end.
type emitter struct{ rev []bpf.Instruction }

type label int

func (e *emitter) put(in bpf.Instruction) label {
	e.rev = append(e.rev, in)
	return label(len(e.rev))
}

func (e *emitter) ret(action uint32) label { return e.put(bpf.RetConstant{Val: action}) }

// jump tests the accumulator and goes to one of two labels. Conditional jumps
// reach 255 instructions; farther ones go by way of a plain jump.
func (e *emitter) jump(cond bpf.JumpTest, val uint32, yes, no label) label {
	if e.far(yes) || e.far(no) { // one more may be added before: test with room
		yes, no = e.near(yes), e.near(no)
	}
	return e.put(bpf.JumpIf{Cond: cond, Val: val, SkipTrue: uint8(len(e.rev) - int(yes)), SkipFalse: uint8(len(e.rev) - int(no))})
}

func (e *emitter) far(l label) bool { return len(e.rev)-int(l) > 253 }

func (e *emitter) near(l label) label {
	if !e.far(l) {
		return l
	}
	return e.put(bpf.Jump{Skip: uint32(len(e.rev) - int(l))})
}

func (e *emitter) program() []bpf.Instruction {
	out := make([]bpf.Instruction, len(e.rev))
	for i, in := range e.rev {
		out[len(out)-1-i] = in
	}
	return out
}

// search is a binary search over the spans; the call's number is in the
// accumulator.
func (e *emitter) search(spans []span) label {
	if len(spans) == 1 {
		return e.leaf(&spans[0])
	}
	mid := len(spans) / 2
	upper := e.search(spans[mid:])
	lower := e.search(spans[:mid])
	return e.jump(bpf.JumpGreaterOrEqual, spans[mid].from, upper, lower)
}

// leaf tries the rules in order.
func (e *emitter) leaf(s *span) label {
	next := e.ret(s.act)
	for i := len(s.rules) - 1; i >= 0; i-- {
		ok := e.ret(s.rules[i].action)
		for j := len(s.rules[i].args) - 1; j >= 0; j-- {
			ok = e.compare(&s.rules[i].args[j], ok, next)
		}
		next = ok
	}
	return next
}

// Offsets in struct seccomp_data; both supported byte orders are little
// endian.
func argLow(i uint) bpf.Instruction  { return bpf.LoadAbsolute{Off: uint32(16 + 8*i), Size: 4} }
func argHigh(i uint) bpf.Instruction { return bpf.LoadAbsolute{Off: uint32(20 + 8*i), Size: 4} }

// compare tests one 64-bit argument in two halves.
func (e *emitter) compare(a *specs.LinuxSeccompArg, ok, fail label) label {
	hi, lo := uint32(a.Value>>32), uint32(a.Value)
	switch a.Op {
	case specs.OpEqualTo:
		return e.equal(a.Index, hi, lo, ok, fail)
	case specs.OpNotEqual:
		return e.equal(a.Index, hi, lo, fail, ok)
	case specs.OpGreaterThan:
		return e.above(a.Index, hi, lo, bpf.JumpGreaterThan, ok, fail)
	case specs.OpGreaterEqual:
		return e.above(a.Index, hi, lo, bpf.JumpGreaterOrEqual, ok, fail)
	case specs.OpLessThan:
		return e.above(a.Index, hi, lo, bpf.JumpGreaterOrEqual, fail, ok)
	case specs.OpLessEqual:
		return e.above(a.Index, hi, lo, bpf.JumpGreaterThan, fail, ok)
	}
	// OpMaskedEqual: (argument & Value) == ValueTwo
	want := a.ValueTwo
	e.jump(bpf.JumpEqual, uint32(want), ok, fail)
	e.put(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: lo})
	low := e.put(argLow(a.Index))
	e.jump(bpf.JumpEqual, uint32(want>>32), low, fail)
	e.put(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: hi})
	return e.put(argHigh(a.Index))
}

func (e *emitter) equal(i uint, hi, lo uint32, ok, fail label) label {
	e.jump(bpf.JumpEqual, lo, ok, fail)
	low := e.put(argLow(i))
	e.jump(bpf.JumpEqual, hi, low, fail)
	return e.put(argHigh(i))
}

func (e *emitter) above(i uint, hi, lo uint32, cond bpf.JumpTest, ok, fail label) label {
	e.jump(cond, lo, ok, fail)
	low := e.put(argLow(i))
	same := e.jump(bpf.JumpEqual, hi, low, fail)
	e.jump(bpf.JumpGreaterThan, hi, ok, same)
	return e.put(argHigh(i))
}
