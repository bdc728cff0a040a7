.syntax unified
.thumb
.cpu cortex-m4
.fpu fpv4-sp-d16
adds r3,#1
cmp r3,#1
itt eq
addeq r3,#1
ldreq r0,[r1]
adds r3,#1
b .