"""Common English words that the tokenizer learns besides tinyworld's own."""

from typing import Final

_WORDS: Final = """
the be to of and a in that have I it for not on with he as you do at this but his by from they
we say her she or an will my one all would there their what so up out if about who get which go
me when make can like time no just him know take people into year your good some could them see
other than then now look only come its over think also back after use two how our work first
well way even new want because any these give day most us is are was were been has had did said
each more very much many such own same right under last long great little still should through
where before too must between never another while here own off again world home life hand part
child eye place case week company system program question government number night point water
room mother area money story fact month lot right study book job word business issue side kind
head house service friend father power hour game line end member law car city community name
president team minute idea body information nothing ago lead social understand whether watch
together follow around parent stop face anything create public already speak others read level
allow add office spend door health person art sure such war history party within grow result
open change morning walk reason low win research girl guy early food moment himself air teacher
force offer enough education across although remember foot second boy maybe toward able age off
policy everything love process music including consider appear actually buy probably human wait
serve market die send expect sense build stay fall nation plan cut college interest death course
someone experience behind reach local kill six remain effect yeah suggest class control raise
care perhaps late hard field else pass former sell major sometimes require along development
themselves report role better economic effort decide rate strong possible heart drug show leader
light voice wife whole police mind finally pull return free military price less according
decision explain son hope develop view relationship carry town road drive arm true federal
break difference thank receive value international building action full model join season
society tax director position player agree especially record pick wear paper special space
ground form support event official whose matter everyone center couple site project hit base
activity star table need court produce eat teach oil half situation easy cost industry figure
street image itself phone either data cover quite picture clear practice piece land recent
describe product doctor wall patient worker news test movie certain north personal simply third
technology catch step baby computer type attention draw film tree source red nearly organization
choose cause hair window evidence difficult listen culture billion chance brother energy period
summer hundred available plant likely opportunity term short letter condition choice single rule
daughter administration south husband floor campaign material population call economy medical
hospital church close risk fire future wrong involve defense anyone increase security bank myself
answer response prompt instruction helpful harmless honest assistant user please sorry yes
"""

COMMON_WORDS: Final = tuple(_WORDS.split())
