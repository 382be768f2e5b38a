package native
import ("testing";"context";"slices";"time";"fmt")
func TestZZ(t *testing.T){
 g,m:=target(t)
 d:=g.Driver.(*Driver)
 acc:=map[string][]float64{}
 var names []string
 for k:=0;k<40;k++{
  b:=m.New(t,"/bin/sleep","100")
  t0:=time.Now()
  sb,err:=d.Sandbox(context.Background(),b); if err!=nil{t.Fatal(err)}
  t1:=time.Now()
  x,err:=d.Start(context.Background(),b,sb); if err!=nil{t.Fatal(err)}
  i:=x.(*instance)
  acc["sandbox"]=append(acc["sandbox"],float64(t1.Sub(t0).Microseconds()))
  prev:=i.trace[0].At
  if k==0 {names=[]string{"sandbox"}}
  for _,s:=range i.trace[1:]{ acc[s.Name]=append(acc[s.Name],float64(s.At-prev)/1000); prev=s.At; if k==0{names=append(names,s.Name)} }
  d.Release(context.Background(),b.ID)
 }
 for _,n:=range names{ v:=acc[n]; slices.Sort(v); fmt.Printf("%-28s p50 %7.0f us  p10 %7.0f p90 %7.0f\n",n,v[len(v)/2],v[len(v)/10],v[len(v)*9/10]) }
}
