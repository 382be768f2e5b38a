#include "textflag.h"

// See vforkCall and parkCall in fork.go. Arguments and results lie above the
// return address, so nothing of ours is on the stack.

// func vforkCall(nr, a1, a2 uintptr) (r, errno uintptr)
TEXT ·vforkCall(SB), NOSPLIT|NOFRAME, $0-40
	MOVQ nr+0(FP), AX
	MOVQ a1+8(FP), DI
	MOVQ a2+16(FP), SI
	XORL DX, DX
	XORL R10, R10
	XORL R8, R8
	XORL R9, R9
	MOVQ 0(SP), R12 // the child returns first, and its calls overwrite this
	SYSCALL
	MOVQ R12, 0(SP)
	CMPQ AX, $-4095
	JCC  failed
	MOVQ AX, r+24(FP)
	MOVQ $0, errno+32(FP)
	RET

failed:
	NEGQ AX
	MOVQ $0, r+24(FP)
	MOVQ AX, errno+32(FP)
	RET

// func parkCall(flags uintptr) (pid, errno uintptr)
TEXT ·parkCall(SB), NOSPLIT|NOFRAME, $0-24
	MOVL $56, AX // clone
	MOVQ flags+0(FP), DI
	XORL SI, SI
	XORL DX, DX
	XORL R10, R10
	XORL R8, R8
	XORL R9, R9
	SYSCALL
	TESTQ AX, AX
	JEQ   child
	CMPQ  AX, $-4095
	JCC   failed
	MOVQ  AX, pid+8(FP)
	MOVQ  $0, errno+16(FP)
	RET

failed:
	NEGQ AX
	MOVQ $0, pid+8(FP)
	MOVQ AX, errno+16(FP)
	RET

child:
	MOVL $157, AX // prctl(PR_SET_PDEATHSIG, SIGKILL)
	MOVL $1, DI
	MOVL $9, SI
	SYSCALL

wait:
	MOVL $271, AX // ppoll of nothing, without end
	XORL DI, DI
	XORL SI, SI
	XORL DX, DX
	XORL R10, R10
	SYSCALL
	JMP  wait
