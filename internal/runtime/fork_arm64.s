#include "textflag.h"

// See vforkCall and parkCall in fork.go. The return address stays in R30.

// func vforkCall(nr, a1, a2 uintptr) (r, errno uintptr)
TEXT ·vforkCall(SB), NOSPLIT|NOFRAME, $0-40
	MOVD nr+0(FP), R8
	MOVD a1+8(FP), R0
	MOVD a2+16(FP), R1
	MOVD ZR, R2
	MOVD ZR, R3
	MOVD ZR, R4
	MOVD ZR, R5
	SVC
	CMN  $4095, R0
	BCS  failed
	MOVD R0, r+24(FP)
	MOVD ZR, errno+32(FP)
	RET

failed:
	NEG  R0, R0
	MOVD ZR, r+24(FP)
	MOVD R0, errno+32(FP)
	RET

// func parkCall(flags uintptr) (pid, errno uintptr)
TEXT ·parkCall(SB), NOSPLIT|NOFRAME, $0-24
	MOVD $220, R8 // clone
	MOVD flags+0(FP), R0
	MOVD ZR, R1
	MOVD ZR, R2
	MOVD ZR, R3
	MOVD ZR, R4
	MOVD ZR, R5
	SVC
	CBZ  R0, child
	CMN  $4095, R0
	BCS  failed
	MOVD R0, pid+8(FP)
	MOVD ZR, errno+16(FP)
	RET

failed:
	NEG  R0, R0
	MOVD ZR, pid+8(FP)
	MOVD R0, errno+16(FP)
	RET

child:
	MOVD $167, R8 // prctl(PR_SET_PDEATHSIG, SIGKILL)
	MOVD $1, R0
	MOVD $9, R1
	SVC

wait:
	MOVD $73, R8 // ppoll of nothing, without end
	MOVD ZR, R0
	MOVD ZR, R1
	MOVD ZR, R2
	MOVD ZR, R3
	SVC
	B    wait
